"""Where answers are written side by side: one thread, which is there only while there is something to write.

An engine says how an answer is begun, how all that are begun are written a step further, and how one is put away. A
desk that nobody holds and nobody waits for is freed like anything else: no thread keeps it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tokenizers import Tokenizer

from feilun.errors import FeilunError, UnavailableError
from feilun.models import control, forms, threads
from feilun.models.answers import Answer, Tell, Wrote
from feilun.models.chat import Chat, Message
from feilun.models.decoder import Manner, Stop, admit
from feilun.models.forms import Words


class Spent(Protocol):
    """Processor time; ``ns`` is complete when the work is done."""

    ns: int


Work = Callable[[], AbstractContextManager[Spent]]  # counts what is done inside it


@dataclass
class _Own:
    ns: int = 0


@contextlib.contextmanager
def own_work() -> Iterator[_Own]:
    """The time of the whole process, where nobody counts more exactly (``feilun.serve.spending`` does)."""
    spent, began = _Own(), time.process_time_ns()
    try:
        yield spent
    finally:
        spent.ns = time.process_time_ns() - began


@dataclass(frozen=True)
class Advance:
    """What one step did for one answer.

    ``weight``: its part of the step's work, in tokens that were read or written. ``error``: why it cannot go on.
    """

    answer: Answer
    wrote: Sequence[Wrote] = ()
    weight: int = 1
    error: BaseException | None = None


@dataclass(frozen=True)
class Speech:
    """What a causal model reads and writes in, without the model: no torch is needed for it.

    ``ends``: tokens after which nothing more is said. ``size``: how many token ids there are.
    """

    tokenizer: Tokenizer
    chat: Chat
    ends: frozenset[int]
    size: int
    abilities: frozenset[str] = field(default_factory=frozenset)  # see ``feilun.models.decoder.admit``

    @functools.cached_property
    def words(self) -> Words:
        """What each token stands for."""
        return Words(self.tokenizer, self.ends, self.size)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """See ``feilun.models.decoder.Decoder.prompt``."""
        [text] = self.chat.prompts(control.told(self.tokenizer, [messages], parted=bool(self.chat.template)))
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, text: str) -> list[int]:
        """See ``feilun.models.decoder.Decoder.encode``."""
        [said] = control.words(self.tokenizer, [text])
        return list(self.tokenizer.encode(said).ids)


class Desk(ABC):
    """A ``feilun.models.decoder.Decoder``, but for the engine."""

    head = "words"
    labels: tuple[str, ...] = ()
    adapters: frozenset[str] = frozenset()

    def __init__(self, speech: Speech, context: int, work: Work = own_work) -> None:
        self.speech = speech
        self.context = context
        self._work = work
        self._lock = threading.Lock()
        self._come: list[Answer] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """See ``feilun.models.decoder.Decoder.prompt``."""
        return self.speech.prompt(messages)

    def encode(self, text: str) -> list[int]:
        """See ``feilun.models.decoder.Decoder.encode``."""
        return self.speech.encode(text)

    def write(self, prompt: Sequence[int], manner: Manner, tell: Tell) -> Stop:
        """See ``feilun.models.decoder.Decoder.write``."""
        speech = self.speech
        admit(prompt, manner, context=self.context, size=speech.size, can=speech.abilities, adapters=self.adapters)
        form = None if manner.schema is None else speech.words.form(forms.read(manner.schema))
        answer = Answer(speech.tokenizer, prompt, manner, ends=speech.ends, tell=tell, form=form)
        with self._lock:
            if self._closed:
                raise _gone()
            self._come.append(answer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, name=threads.ENGINE, daemon=True)
                self._thread.start()
        return answer.stop

    def close(self) -> None:
        """Free what it holds; answers that are being written end with an exception."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._free()

    def _write_on(self) -> None:
        threads.rename(threads.ENGINE)
        at_desk: list[Answer] = []
        while (come := self._next(at_desk)) is not None:
            for answer in come:
                if self._began(answer):
                    at_desk.append(answer)
            self._advance(at_desk)
            for answer in [a for a in at_desk if a.over]:
                at_desk.remove(answer)
                self._end(answer)

    def _next(self, at_desk: list[Answer]) -> list[Answer] | None:
        """The answers that are to be begun; None when there is nothing left to write, or no longer a desk."""
        with self._lock:
            come, self._come = self._come, []
            if self._closed:
                left, at_desk[:] = [*at_desk, *come], []
            elif come or at_desk:
                return come
            else:
                left = []
            self._thread = None
        for answer in left:
            answer.fail(_gone())
        return None

    def _began(self, answer: Answer) -> bool:
        try:
            if not answer.over:
                self._begin(answer)
        except FeilunError as error:
            answer.fail(error)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises belongs to the one who asked for it
            answer.fail(error)
        return not answer.over

    def _advance(self, at_desk: Sequence[Answer]) -> None:
        try:
            with self._work() as spent:
                advances = self._step(at_desk)
        except Exception as error:  # noqa: BLE001 - a step is of all answers at once: all of them have failed
            for answer in at_desk:
                answer.fail(error)
            return
        total = sum(a.weight for a in advances) or 1
        passed = given = 0
        for advance in advances:
            passed += advance.weight
            share = spent.ns * passed // total - given  # the shares sum to what was spent
            given += share
            advance.answer.take(advance.wrote, share)
            if advance.error is not None:
                advance.answer.fail(advance.error)

    @abstractmethod
    def _begin(self, answer: Answer) -> None:
        """Get ready to write it."""

    @abstractmethod
    def _step(self, answers: Sequence[Answer]) -> list[Advance]:
        """Write every answer a little further; none of them is over."""

    @abstractmethod
    def _end(self, answer: Answer) -> None:
        """Put away what was kept for an answer that is over, perhaps before its end."""

    def _free(self) -> None:  # noqa: B027 - not every engine holds something
        """Let go of the model; no answer is being written any more."""


def _gone() -> UnavailableError:
    return UnavailableError("the model was put away", hint="send it again", code="model-unloaded")
