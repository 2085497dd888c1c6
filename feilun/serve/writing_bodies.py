"""The bodies of OpenAI's routes that write. What cannot be honoured is refused by name; what changes nothing passes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

from feilun.models.decoder import Manner
from feilun.serve.bodies import Body, Long, Text, Word
from feilun.serve.problems import RequestError

MOST_CHOICES = 16  # of one prompt,
MOST_PROMPTS = 64  # of one request, and answers of it together
MOST_MESSAGES = 1_000
MOST_TOKENS = 2**31  # more is no number of tokens; whether so many fit is the model's to say
MOST_SCHEMA = 65_536  # characters
OBJECT = '{"type":"object"}'  # the schema of any JSON object


class Only:
    """Marks a field that changes nothing with these values, and cannot be honoured with others."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": list(self.values)}

    def _check(self, given: Any) -> Any:
        if any(type(given) is type(value) and given == value for value in self.values):
            return given
        raise PydanticCustomError("not_done_here", "this is not done here: leave it out")


def _listed(given: Any) -> Any:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or any(not isinstance(one, str) for one in given):
        raise PydanticCustomError("text_or_texts", "Input should be a string or a list of strings")
    return given


def _parts(given: Any) -> Any:
    if isinstance(given, str):
        return [{"type": "text", "text": given}]
    if not isinstance(given, list):
        raise PydanticCustomError("text_or_parts", "Input should be a string or a list of parts of the type text")
    return given


def _is_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is no JSON schema, is too long, or refers to another document."""
    if len(json.dumps(schema)) > MOST_SCHEMA:
        raise PydanticCustomError("long_schema", "the schema is too long")
    from jsonschema import Draft202012Validator, SchemaError  # no other route needs it

    if any(not str(reference).startswith("#") for reference in _references(schema)):
        raise PydanticCustomError("far_schema", "the schema refers to another document")
    try:
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError):
        raise PydanticCustomError("no_schema", "this is not a JSON schema") from None
    return schema


def _references(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from (one[name] for name in ("$ref", "$dynamicRef") if name in one)
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


class Part(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Long


class Message(Body):
    """A message of a conversation. The fields behind ``content`` are those that an answer has, sent back."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Part],
        Field(min_length=1, max_length=MOST_MESSAGES),
        BeforeValidator(_parts, json_schema_input_type=str | list[Part]),
    ]
    name: Annotated[Any, Only(None)] = None
    refusal: Annotated[Any, Only(None)] = None
    annotations: Annotated[Any, Only(None, [])] = None
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None)] = None
    tool_calls: Annotated[Any, Only(None, [])] = None

    @property
    def plain(self) -> dict[str, str]:
        """As templates know it; who develops and who runs a system are one to them."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(part.text for part in self.content)}


class Schema(Body):
    """A JSON schema with a name."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Long | None = None
    schema_: Annotated[dict[str, Any], AfterValidator(_is_schema)] = Field(alias="schema")
    strict: bool | None = None


class Shape(Body):
    """How an answer is to be written down."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Shape:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("schema", "json_schema stands there for the type json_schema, and only for it")
        return self

    @property
    def schema_text(self) -> str | None:
        """The JSON schema that an answer has to fit; None where it may be any text."""
        if self.json_schema is not None:
            return json.dumps(self.json_schema.schema_, ensure_ascii=False)
        return OBJECT if self.type == "json_object" else None


class StreamOptions(Body):
    """``include_usage``: usage in an event of its own before the end."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, Only(None, False)] = None


Stops = Annotated[
    list[Annotated[Text, Field(max_length=256)]],
    Field(max_length=4),
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
]
Number = Annotated[int, Field(ge=1, le=MOST_TOKENS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Label = Annotated[Word, Field(max_length=128)]  # read, and kept nowhere


class Writes(Body):
    """What both routes know."""

    model: Word
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Number | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[Any, Only(None, {})] = None
    user: Label | None = None

    @model_validator(mode="after")
    def _options_are_of_a_stream(self) -> Writes:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options are for streams: set stream")
        return self

    @property
    def tells_usage(self) -> bool:
        """Whether a stream has an event of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def manner(self, most: int, *, logprobs: int | None, schema: str | None = None) -> Manner:
        """How each answer is to be written, with at most so many tokens. As OpenAI's API has it, temperature is 1
        where nothing is said."""
        return Manner(
            most=most,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logprobs=logprobs,
            schema=schema,
        )


class Chat(Writes):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Number | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Shape | None = None
    metadata: Annotated[dict[Label, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    store: Annotated[Any, Only(None, False)] = None
    service_tier: Annotated[Any, Only(None, "auto", "default")] = None
    parallel_tool_calls: Annotated[Any, Only(None, True, False)] = None
    tools: Annotated[Any, Only(None, [])] = None
    tool_choice: Annotated[Any, Only(None, "none", "auto")] = None
    functions: Annotated[Any, Only(None, [])] = None
    function_call: Annotated[Any, Only(None, "none", "auto")] = None
    modalities: Annotated[Any, Only(None, ["text"])] = None
    audio: Annotated[Any, Only(None)] = None
    moderation: Annotated[Any, Only(None)] = None
    prediction: Annotated[Any, Only(None)] = None
    prompt_cache_options: Annotated[Any, Only(None)] = None
    prompt_cache_retention: Annotated[Any, Only(None)] = None
    reasoning_effort: Annotated[Any, Only(None, "none")] = None
    verbosity: Annotated[Any, Only(None)] = None
    web_search_options: Annotated[Any, Only(None)] = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Chat:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError("max_tokens", "max_tokens and max_completion_tokens differ: leave one out")
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs are for answers with logprobs: set logprobs")
        return self


class Complete(Writes):
    """``POST /v1/completions``."""

    prompt: Annotated[
        list[Annotated[Long, Field(min_length=1)]],
        Field(min_length=1, max_length=MOST_PROMPTS),
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    ]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[Any, Only(None, 1)] = None
    echo: Annotated[Any, Only(None, False)] = None
    suffix: Annotated[Any, Only(None, "")] = None


CHAT: TypeAdapter[Chat] = TypeAdapter(Chat)
COMPLETE: TypeAdapter[Complete] = TypeAdapter(Complete)


def most_of(asked: int | None, usual: int, prompts: Sequence[Sequence[int]], context: int, where: str) -> int:
    """The most tokens of each answer: as many as were asked for, else ``usual``, but never beyond the context.

    Raises:
        RequestError: 422, a prompt and the answer that was asked for do not fit into the context together.
    """
    longest = max(map(len, prompts))
    left = context - longest
    if left < 1 or (asked is not None and asked > left):
        more = f" and an answer of {asked:,}" if asked is not None and left > 0 else ""
        raise RequestError(
            f"a prompt of {longest:,} tokens{more} does not fit into the model's context of {context:,}",
            status=422,
            code="context-length-exceeded",
            where=where,
            hint=f"at most {left:,} tokens are left for the answer" if left > 0 else "send less",
        )
    return min(usual, left) if asked is None else asked
