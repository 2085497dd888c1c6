"""The official client asks for conversations and texts that go on (OpenAI's routes that write)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import select

from faults.house import HTTP, PEPPER
from feilun.accounts import keys
from feilun.store import tables
from tests.serve.talking import MESSAGES, Talking


def usage_of(talking: Talking, request: str) -> Any:
    with talking.house.database.read() as connection:
        return connection.execute(select(tables.usage).where(tables.usage.c.request == request)).one_or_none()


def post(talking: Talking, path: str, **body: Any) -> httpx.Response:
    return HTTP.post(f"{talking.running.base}{path}", json=body, headers=talking.headers)


def test_a_message_is_answered_and_charged_by_what_went_in_and_out(talking: Talking) -> None:
    said = talking.client.chat.completions.create(model="talk", messages=MESSAGES, max_tokens=9, temperature=0)
    assert said.usage is not None
    row = usage_of(talking, said.id)
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (row.tokens, 9)
    assert (json.loads(row.more)["tokens_out"], row.partial) == (9, None)
    assert said.usage.model_extra == {"amount_nano": row.amount_nano, "currency": "USD"}
    assert row.amount_nano == 10 * row.tokens + 40 * 9
    (choice,) = said.choices
    assert (choice.finish_reason, choice.message.role, len(choice.message.content or "")) == ("length", "assistant", 9)
    assert said.model == f"talk@{row.release[:12]}"


def test_a_stream_says_what_the_whole_answer_says(talking: Talking) -> None:
    asked: Any = {"model": "talk", "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    whole = talking.client.chat.completions.create(**asked)
    options = {"include_usage": True}
    chunks = list(talking.client.chat.completions.create(**asked, stream=True, stream_options=options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40
    assert all(c.usage is None for c in chunks[:-1])
    assert {c.id for c in chunks} == {chunks[0].id}
    assert json.loads(usage_of(talking, chunks[0].id).more)["tokens_out"] == 40


def test_a_stream_without_the_wish_for_usage_has_none(talking: Talking) -> None:
    chunks = list(talking.client.chat.completions.create(model="talk", messages=MESSAGES, max_tokens=5, stream=True))
    assert all(c.usage is None and c.choices for c in chunks)


def test_several_choices_have_seeds_of_their_own_and_the_same_seed_says_the_same(talking: Talking) -> None:
    asked: Any = {"model": "talk", "messages": MESSAGES, "max_tokens": 12, "n": 3, "seed": 7, "temperature": 1.5}
    one, other = (talking.client.chat.completions.create(**asked) for _ in range(2))
    texts = [c.message.content for c in one.choices]
    assert texts == [c.message.content for c in other.choices]
    assert len(set(texts)) == 3
    assert one.usage is not None
    assert one.usage.completion_tokens == 36
    chunks = list(talking.client.chat.completions.create(**asked, stream=True))
    told = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == i) for i in range(3)]
    assert told == texts


def test_an_answer_ends_before_a_stop_string(talking: Talking) -> None:
    asked: Any = {"model": "talk", "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    text = talking.client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = text[20:23]
    said = talking.client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert (said.message.content, said.finish_reason) == (text[: text.index(stop)], "stop")
    chunks = list(talking.client.chat.completions.create(**asked, stop=stop, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == said.message.content


def test_probabilities_are_told_for_every_token_in_streams_too(talking: Talking) -> None:
    asked: Any = {"model": "talk", "messages": MESSAGES, "max_tokens": 6, "temperature": 0, "logprobs": True}
    said = talking.client.chat.completions.create(**asked, top_logprobs=3).choices[0]
    assert said.logprobs is not None
    content = said.logprobs.content or []
    assert "".join(t.token for t in content) == said.message.content
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 3 and t.bytes == list(t.token.encode()) for t in content)
    assert all(t.top_logprobs[0].token == t.token for t in content)  # it is greedy
    told = list(talking.client.chat.completions.create(**asked, top_logprobs=3, stream=True))
    tokens = [t for c in told if c.choices[0].logprobs for t in c.choices[0].logprobs.content or []]
    assert [t.token for t in tokens] == [t.token for t in content]


def test_the_asynchronous_client_streams_side_by_side(talking: Talking) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(api_key=talking.token, base_url=f"{talking.running.base}/v1") as client:

            async def one(number: int) -> str:
                messages: Any = [{"role": "user", "content": f"number {number}"}]
                stream = await client.chat.completions.create(
                    model="talk", messages=messages, max_tokens=30, temperature=0, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return list(await asyncio.gather(*map(one, range(6))))

    said = asyncio.run(ask())
    assert [len(text) for text in said] == [30] * 6


def test_an_answer_can_have_to_fit_a_schema_or_that_is_refused_by_name(talking: Talking) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    shape = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    reply = post(talking, "/v1/chat/completions", model="talk", messages=MESSAGES, response_format=shape)
    if reply.status_code == 200:
        assert isinstance(json.loads(reply.json()["choices"][0]["message"]["content"])["ok"], bool)
    else:
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "response_format")


REFUSED = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"audio": {"voice": "alloy"}}, "audio"),
    ({"logit_bias": {"5": 100}}, "logit_bias"),
    ({"store": True}, "store"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"base_url": "http://x"}, "base_url"),
    ({"chat_template": "x"}, "chat_template"),
    ({"tenant_id": "x"}, "tenant_id"),
    ({"n": 10**9}, "n"),
    ({"n": 0}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**12}, "max_tokens"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"max_completion_tokens": 100_000}, "max_completion_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"seed": 2**63}, "seed"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": [""]}, "stop.0"),
    ({"stream": "yes"}, "stream"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
    ({"messages": [{"role": "user", "content": "half \ud800 a pair"}]}, None),
    ({"messages": [{"role": "user", "content": "word " * 400}]}, "messages"),
    ({"top_logprobs": 3}, None),
    ({"stream_options": {"include_usage": True}}, None),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
]


@pytest.mark.parametrize(("more", "param"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name_cases_27_36_37(
    talking: Talking, more: dict[str, Any], param: str | None
) -> None:
    body = json.dumps({"model": "talk", "messages": MESSAGES} | more).encode()  # as ASCII: surrogates are escaped
    url = f"{talking.running.base}/v1/chat/completions"
    reply = HTTP.post(url, content=body, headers=talking.headers | {"Content-Type": "application/json"})
    assert reply.status_code == 422, reply.text
    assert param is None or reply.json()["error"]["param"] == param


def test_numbers_that_are_none_are_refused_case_27(talking: Talking) -> None:
    url = f"{talking.running.base}/v1/chat/completions"
    for number, status in (("NaN", 400), ("1e999", 422), ("-1e999", 422)):
        body = f'{{"model": "talk", "messages": [{{"role": "user", "content": "x"}}], "temperature": {number}}}'
        reply = HTTP.post(url, content=body, headers=talking.headers | {"Content-Type": "application/json"})
        assert reply.status_code == status


def test_what_changes_nothing_is_accepted(talking: Talking) -> None:
    harmless: Any = {"user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "tool_choice": "none"}
    harmless |= {"service_tier": "auto", "modalities": ["text"], "logit_bias": {}, "parallel_tool_calls": True}
    harmless |= {"response_format": {"type": "text"}, "safety_identifier": "s", "prompt_cache_key": "k", "audio": None}
    said = talking.client.chat.completions.create(model="talk", messages=MESSAGES, max_tokens=2, **harmless)
    again: Any = [*MESSAGES, said.choices[0].message.model_dump(), {"role": "user", "content": "go on"}]
    assert talking.client.chat.completions.create(model="talk", messages=again, max_tokens=2).choices


def test_a_model_that_does_not_write_and_a_key_that_may_not_ask_are_refused(talking: Talking) -> None:
    reply = post(talking, "/v1/chat/completions", model="reviews", messages=MESSAGES)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "wrong-task")
    reply = post(talking, "/v1/classify", model="talk", input="good")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "wrong-task")
    token = keys.create(talking.house.database, PEPPER, "acme", scopes=["classify"]).token
    with (
        openai.OpenAI(api_key=token, base_url=f"{talking.running.base}/v1", max_retries=0) as client,
        pytest.raises(openai.PermissionDeniedError),
    ):
        client.chat.completions.create(model="talk", messages=MESSAGES)


def test_texts_go_on_each_several_times(talking: Talking) -> None:
    asked: Any = {"model": "talk", "prompt": ["good film", "bad"], "max_tokens": 7, "n": 2, "seed": 3}
    said = talking.client.completions.create(**asked, logprobs=2)
    assert [c.index for c in said.choices] == [0, 1, 2, 3]
    assert all(len(c.text) == 7 for c in said.choices)
    assert said.usage is not None
    row = usage_of(talking, said.id)
    assert (row.inputs, row.tokens, said.usage.completion_tokens) == (2, said.usage.prompt_tokens, 28)
    chances = said.choices[0].logprobs
    assert chances is not None
    assert "".join(chances.tokens or []) == said.choices[0].text
    assert chances.text_offset == list(range(7))
    chunks = list(talking.client.completions.create(**asked, stream=True))
    told = ["".join(c.choices[0].text for c in chunks if c.choices[0].index == i) for i in range(4)]
    assert told == [c.text for c in said.choices]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": ""}, "prompt.0"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": ["x"] * 33, "n": 2}, "n"),
        ({"logprobs": 6}, "logprobs"),
    ],
)
def test_what_cannot_be_done_with_texts_is_refused_by_name(talking: Talking, more: dict[str, Any], param: str) -> None:
    reply = post(talking, "/v1/completions", **({"model": "talk", "prompt": "good"} | more))
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)
