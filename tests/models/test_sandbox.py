from __future__ import annotations

import time
import tracemalloc

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from feilun.errors import DataError
from feilun.models import chat, sandbox

ASKED = [[{"role": "user", "content": "hi"}]]
WRONG = {
    "a division by zero": "{{ 1/0 }}",
    "a text without end": "{{ 'a' * 10**12 }}",
    "another": "{{ 'a' * 900000000 }}",
    "nothing there": "{{ {}.x.y }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that doubles": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "the machine's own": "{{ ''.__class__.__mro__ }}",
    "a huge number": "{{ (10**100000)|string|length }}",
    "a wide number": "{{ '%1000000000d'|format(1)|length }}",
    "a wide number in Python": "{{ '%1000000000d' % 1 }}",
    "a wide number in braces": "{{ '{:1000000000d}'.format(1) }}",
    "a wide text": "{{ 'a'.ljust(1000000000) }}",
    "a text in the middle": "{{ 'a'|center(1000000000) }}",
    "indented": "{{ [1]|tojson(indent=1000000000) }}",
    "replaced": "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "joined": "{% set s = 'a' * 1000000 %}{{ s.join(range(99999)|map('string')|list) }}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop in itself": "{% for i in range(9) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "a text that doubles": "{% set n = namespace(s='a') %}{% for i in range(60) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}"
    "{% set n.s = [n.s, n.s] %}{% endfor %}"
    "{{ n.s }}",
    "lists that are compared": "{% set n = namespace(s=[1], t=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}"
    "{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.s == n.t }}",
    "much text": "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "another file": "{% include 'x' %}",
    "no template": "{% if %}",
    "its own complaint": "{{ raise_exception('roles must alternate') }}",
}


@pytest.mark.parametrize("template", WRONG.values(), ids=WRONG.keys())
def test_a_template_that_goes_wrong_or_on_without_end_is_refused_soon_and_in_little_memory(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MOST", sandbox.MOST // 10)  # watching memory takes ten times as long
    tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(DataError, match="chat template refuses"):
            chat.Chat(template).prompts(ASKED)
        assert time.process_time() - began < 30 and tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


RIGHT = [
    chat.PLAIN,
    "{%- for m in messages %}\n  {{- m.role ~ ': ' + m['content'] | trim }}"
    "{% if not loop.last %}|{% endif %}\n{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index0 }}{{ m | tojson }}"
    "{{ m|tojson(indent=2) }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages[1:][::-1] %}{% set ns.n = ns.n + loop.revindex %}{% continue %}"
    "{% endfor %}{{ ns.n }}{{ messages | selectattr('role', 'equalto', 'user') "
    "| map(attribute='content') | join(', ') }}",
    "{% macro say(m) %}{{ caller() }}{{ m.content.split('t')[-1].replace('o', '0').strip() }}{% endmacro %}"
    "{% for m in messages %}{% call say(m) %}<{{ m.role|upper }}>{% endcall %}{% else %}none{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content|default('x')|replace('t', 'T')|indent(2) }}{% endgeneration %}"
    "{% endfor %}{% if tools %}T{% endif %}{% if documents %}D{% endif %}{{ eos_token }}{{ none }}{{ unknown }}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ '%s' if v is none else v }};{% endfor %}{{ 7 % 3 }}{{ 2 ** 8 }}"
    "{{ messages|length * 2 }}{{ 'ab' * 2 }}{{ 'user' in messages[0].role }}{{ dict(a=1) }}{{ '-' * messages|length }}",
]


@pytest.mark.parametrize("template", RIGHT)
@pytest.mark.parametrize("asks", [True, False])
def test_what_is_rendered_is_what_transformers_renders(template: str, asks: bool) -> None:
    told = [
        {"role": "system", "content": " be brief\n"},
        {"role": "user", "content": "two & <two>?"},
        {"role": "assistant", "content": "fôur"},
    ]
    talk = chat.Chat(template, {"eos_token": "</s>"})
    wanted = render_jinja_template([told], chat_template=template, add_generation_prompt=asks, eos_token="</s>")[0]
    assert (talk.prompts if asks else talk.whole)([told]) == wanted


def test_a_long_conversation_is_no_reason_to_stop() -> None:
    told = [{"role": "user" if i % 2 else "assistant", "content": "words " * 200} for i in range(2000)]
    assert len(chat.Chat(chat.PLAIN, {"eos_token": ""}).whole([told])[0]) > 2_000_000


def test_each_conversation_has_its_own_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MOST", 4000)
    assert len({sandbox.render("{{ 'a' * 500 }}") for _ in range(20)}) == 1
    with pytest.raises(jinja2.TemplateError, match="does not come to an end"):
        sandbox.render("{{ 'a' * 5000 }}")
