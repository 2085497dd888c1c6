"""How a conversation becomes text, as the model was taught: by the tokenizer's own template, or a plain one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from feilun.errors import ArtifactError, DataError
from feilun.models import sandbox

Message = Mapping[str, str]  # role and content
TEMPLATE = "chat_template.jinja"
CONFIGURATION = "tokenizer_config.json"
# A template is a program: it may divide by zero, look for what is not there, call itself without end.
WRONG = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError,
    RuntimeError, MemoryError, SyntaxError,
)  # fmt: skip
# For a model that never saw a conversation: words that any model knows, and its own sign for the end.
PLAIN = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Chat:
    """A template and the special tokens that it may name (bos_token, eos_token, ...).

    ``template`` may be empty: then what was said before is put together as it is and the answer follows.
    """

    template: str
    specials: dict[str, str] = field(default_factory=dict)

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """What is read before an answer is written, for each conversation that waits for one.

        >>> Chat(PLAIN, {"eos_token": "<e>"}).prompts([[{"role": "user", "content": "Two and two?"}]])
        ['user: Two and two?\\nassistant: ']
        """
        return self._render(conversations, asks=True)

    def whole(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """Conversations with their answers."""
        return self._render(conversations, asks=False)

    def _render(self, conversations: Sequence[Sequence[Message]], *, asks: bool) -> list[str]:
        if not self.template:
            return ["".join(m["content"] for m in conversation) for conversation in conversations]
        told = [[dict(m) for m in conversation] for conversation in conversations]
        try:
            named: dict[str, Any] = self.specials | {"add_generation_prompt": asks, "tools": [], "documents": None}
            return [sandbox.render(self.template, messages=messages, **named) for messages in told]
        except WRONG as error:
            raise DataError(
                f"the model's chat template refuses a conversation: {str(error)[:200] or type(error).__name__}",
                hint='roles must follow in the order that it knows; template = "plain" uses none',
                code="chat-template",
            ) from error


def load(folder: Path) -> Chat:
    """The template and special tokens in a folder of the Hugging Face layout; ``PLAIN`` where it has no template.

    Raises:
        ArtifactError: tokenizer_config.json is not JSON.
    """
    place = folder / CONFIGURATION
    try:
        configuration: dict[str, Any] = json.loads(place.read_text("utf-8")) if place.is_file() else {}
    except ValueError as error:
        raise ArtifactError("the tokenizer's configuration cannot be read", where=str(place)) from error
    own = folder / TEMPLATE
    template = own.read_text("utf-8") if own.is_file() else configuration.get("chat_template")
    if isinstance(template, list):  # several, each with a name
        template = next((t["template"] for t in template if t.get("name") == "default"), None)
    return Chat(PLAIN if template is None else str(template), specials(configuration))


def specials(configuration: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of a tokenizer's configuration, as text.

    >>> specials({"eos_token": {"content": "<e>"}, "bos_token": None, "legacy": True})
    {'eos_token': '<e>'}
    """
    found = {}
    for name, value in configuration.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def save(chat: Chat, folder: Path, context: int) -> None:
    """Write template and special tokens where ``load`` and ``AutoTokenizer.from_pretrained`` find them."""
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, **chat.specials}
    (folder / CONFIGURATION).write_text(json.dumps(configuration, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / TEMPLATE).write_text(chat.template, "utf-8")
