"""Answers written by another server: anything that speaks OpenAI's ``/v1/completions``, as vLLM does on GPUs.

The prompt is ours: template and tokens are those that the model was trained with, and go over as token ids, so that two
servers never disagree about them. Where a server takes texts alone, ``prompts`` is "text", and special tokens are lost
on the way. Each answer is a request of its own that is streamed; the other server puts them side by side.

What a token costs there is not known here: ``compute_ns`` is 0.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from feilun.errors import ArtifactError, FeilunError, SettingError, UnavailableError
from feilun.models import chat, tokens
from feilun.models.answers import Tell
from feilun.models.chat import Message
from feilun.models.decoder import Chance, Finish, Manner, Piece, Stop, admit
from feilun.models.desk import Speech

FILE = "remote.json"
ALL = ("penalties", "logprobs", "top_logprobs", "schema")
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


@dataclass(frozen=True)
class Upstream:
    """Where answers are written.

    ``url``: up to and with ``/v1``. ``key``: the environment variable that has its API key, empty where it asks for
    none. ``adapters``: names of models there that are this one with an adapter. ``abilities``: see
    ``feilun.models.decoder.admit``. ``timeout_s``: how long nothing may come.
    """

    url: str
    model: str
    context: int
    key: str = ""
    prompts: Literal["ids", "text"] = "ids"
    abilities: tuple[str, ...] = ALL
    adapters: tuple[str, ...] = ()
    timeout_s: float = 60.0


class Remote:
    """A ``feilun.models.decoder.Decoder``."""

    head = "words"
    labels: tuple[str, ...] = ()

    def __init__(self, upstream: Upstream, speech: Speech) -> None:
        self.context = upstream.context
        self.adapters = frozenset(upstream.adapters)
        self._upstream = upstream
        self._speech = speech
        key = os.environ.get(upstream.key, "") if upstream.key else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.Client(headers=headers, timeout=upstream.timeout_s, limits=limits)
        self._closed = False

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """See ``feilun.models.decoder.Decoder.prompt``."""
        return self._speech.prompt(messages)

    def encode(self, text: str) -> list[int]:
        """See ``feilun.models.decoder.Decoder.encode``."""
        return self._speech.encode(text)

    def write(self, prompt: Sequence[int], manner: Manner, tell: Tell) -> Stop:
        """See ``feilun.models.decoder.Decoder.write``."""
        speech = self._speech
        admit(prompt, manner, context=self.context, size=speech.size, can=speech.abilities, adapters=self.adapters)
        if self._closed:
            raise UnavailableError("the model was put away", hint="send it again", code="model-unloaded")
        answer = _Far(tell)
        body = self._body(list(prompt), manner)
        threading.Thread(target=self._read, args=(body, answer), name="feilun-remote", daemon=True).start()
        return answer.stop

    def close(self) -> None:
        """Close the connections; answers that are being written end with an exception."""
        self._closed = True
        self._http.close()

    def _body(self, prompt: list[int], manner: Manner) -> dict[str, Any]:
        text = self._speech.tokenizer.decode(prompt, skip_special_tokens=False)
        body: dict[str, Any] = {
            "model": manner.adapter or self._upstream.model,
            "prompt": prompt if self._upstream.prompts == "ids" else text,
            "max_tokens": manner.most,
            "temperature": manner.temperature,
            "top_p": manner.top_p,
            "stream": True,
        }
        if "logprobs" in self._speech.abilities:  # they tell how many tokens a piece has
            body["logprobs"] = manner.logprobs or 0
        if manner.stop:
            body["stop"] = list(manner.stop)
        if manner.seed is not None:
            body["seed"] = manner.seed
        for name in ("frequency_penalty", "presence_penalty"):
            if value := getattr(manner, name):
                body[name] = value
        if manner.schema is not None:
            told = {"name": "answer", "schema": json.loads(manner.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": told}
        return body | {"stream_options": {"include_usage": True}}

    def _read(self, body: dict[str, Any], answer: _Far) -> None:
        try:
            with self._http.stream("POST", f"{self._upstream.url}/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                for event in _events(response):
                    answer.take(event, logprobs=body.get("logprobs") if "logprobs" in body else None)
                    if answer.over:
                        return
            raise _broken("the stream ended before the answer")
        except FeilunError as error:
            answer.fail(error)
        except (httpx.HTTPError, httpx.StreamError, RuntimeError) as error:  # a closed client is a RuntimeError
            answer.fail(_broken(type(error).__name__))
        except (ValueError, LookupError, TypeError) as error:
            answer.fail(_broken(f"what it sends is not understood ({type(error).__name__})"))


class _Far:
    """One answer of another server, from its events to pieces. The last piece waits for the usage behind it."""

    def __init__(self, tell: Tell) -> None:
        self.over = False
        self._tell = tell
        self._told = 0
        self._last: tuple[str, int, tuple[Chance, ...], Finish] | None = None
        self._lock = threading.RLock()

    def stop(self) -> None:
        """Nothing is told after this returns."""
        with self._lock:
            self.over = True

    def fail(self, error: BaseException) -> None:
        """It cannot go on."""
        with self._lock:
            if not self.over:
                self.over = True
                self._tell(error)

    def take(self, event: dict[str, Any] | None, *, logprobs: int | None) -> None:
        """One event; None is the end of the stream."""
        with self._lock:
            if self.over:
                return
            usage = (event or {}).get("usage")
            for choice in (event or {}).get("choices", []):
                self._piece(choice, logprobs)
            if self._last is not None and (event is None or usage):
                text, count, chances, finish = self._last
                if usage:  # counted there: tokens that came without a text, too
                    count = max(count, int(usage["completion_tokens"]) - self._told)
                self.over = True
                self._tell(Piece(text, count, chances, finish))

    def _piece(self, choice: dict[str, Any], logprobs: int | None) -> None:
        text, told = str(choice.get("text") or ""), choice.get("logprobs") or {}
        names = told.get("tokens") or []
        count = len(names) if logprobs is not None else int(bool(text))
        chances = _chances(told) if logprobs is not None and names else ()
        if choice.get("finish_reason"):
            self._last = text, count, chances, _FINISHES[choice["finish_reason"]]
        elif text or count:
            self._told += count
            self._tell(Piece(text, count, chances))


def write(folder: Path, source: Path, upstream: Upstream) -> None:
    """Make a model's folder of another server's: the tokenizer and template of ``source``, and where it answers."""
    for name in ("tokenizer.json", chat.CONFIGURATION, chat.TEMPLATE, "config.json"):
        if (source / name).is_file():
            (folder / name).write_bytes((source / name).read_bytes())
    (folder / FILE).write_text(json.dumps(asdict(upstream), indent=2, sort_keys=True) + "\n", "utf-8")


def load(folder: Path) -> Remote:
    """The decoder of a folder that ``write`` made; the other server need not be there yet.

    Raises:
        ArtifactError: a file is missing or is not what it should be.
    """
    place = folder / FILE
    try:
        told = json.loads(place.read_text("utf-8"))
        lists = {name: tuple(map(str, told[name])) for name in ("abilities", "adapters") if name in told}
        upstream = Upstream(**told | lists)
        if not upstream.url.startswith(("http://", "https://")):
            raise ValueError("the address is no URL")
        size = int(tokens.configuration(folder)["vocab_size"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError("the model's server cannot be read", where=str(place), hint=str(error)[:200]) from error
    tokenizer = tokens.load_tokenizer(folder, upstream.context)
    tokenizer.no_truncation()
    return Remote(upstream, Speech(tokenizer, chat.load(folder), frozenset(), size, frozenset(upstream.abilities)))


def _events(response: httpx.Response) -> Iterator[dict[str, Any] | None]:
    """The events of a stream, as JSON; None for its end."""
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            yield None
            return
        event = json.loads(data)
        if "error" in event:
            raise _broken(str(event["error"].get("message", ""))[:200])
        yield event


def _chances(told: dict[str, Any]) -> tuple[Chance, ...]:
    tops = told.get("top_logprobs") or [{}] * len(told["tokens"])
    return tuple(
        Chance(token, float(logprob), tuple((str(k), float(v)) for k, v in (top or {}).items()))
        for token, logprob, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True)
    )


def _refusal(response: httpx.Response) -> FeilunError:
    """Ours where the server is away or does not know us; the caller's where it refuses the request itself."""
    if response.status_code in (400, 422):
        return SettingError("the model's server refuses this request", hint="leave out what is not usual")
    return _broken(f"it answers {response.status_code}")


def _broken(why: str) -> UnavailableError:
    return UnavailableError("the model's server cannot go on", hint=why, code="upstream")
