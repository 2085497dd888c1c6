"""What callers ask of models of texts: the bodies of the routes, and the columns that they make for a task."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from feilun.serve.bodies import MOST_INPUTS, Body, Inputs, Text, Word
from feilun.serve.problems import RequestError

MOST_CANDIDATES = 1_000  # of all inputs together
PLACES = 7  # significant digits of a number: what float32 holds


def _in_lists(given: Any) -> Any:
    """One list of candidates as a list of one: what is wrong is said of what was sent."""
    if not isinstance(given, list):
        raise PydanticCustomError("candidates", "Input should be a list of strings, or one such list for each input")
    return given if given and all(isinstance(one, list) for one in given) else [given]


Candidates = Annotated[list[Text], Field(min_length=1, max_length=MOST_CANDIDATES)]
Lists = Annotated[
    list[Candidates],
    Field(min_length=1, max_length=MOST_INPUTS),
    BeforeValidator(_in_lists, json_schema_input_type=Candidates | list[Candidates]),
]


class Question(Body):
    """One or many texts, and in subclasses what is asked of each."""

    model: Word = Field(description="a model's name, or name@ and the first digits of a release")
    input: Inputs

    @property
    def texts(self) -> list[str]:
        """The inputs, one or many, as a list."""
        return self.input

    def columns(self) -> dict[str, list[Any]]:
        """What a task reads, by the names that it knows.

        Raises:
            RequestError: 422, a part does not fit the inputs.
        """
        return {"text": self.input}

    def said(self, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        """What is told of each input."""
        return [tidy(answer) for answer in answers]


class Pairs(Question):
    """Texts that may each have a second one."""

    other: Inputs | None = Field(None, description="the second text of a pair: one for all inputs, or one for each")

    def columns(self) -> dict[str, list[Any]]:
        """As ``Question``; one second text stands beside every input."""
        if self.other is None:
            return super().columns()
        return {"text": self.input, "other": _for_each(self.other, len(self.input), "other")}


class Extract(Question):
    """``POST /v1/extract``: questions, and the texts in which their answers stand."""

    other: Inputs = Field(description="the text that a question is asked of: one for all inputs, or one for each")

    def columns(self) -> dict[str, list[Any]]:
        """As ``Question``; one text stands beside every question."""
        return {"text": self.input, "other": _for_each(self.other, len(self.input), "other")}


class Rank(Question):
    """``POST /v1/rank``: queries, and the candidates to put in order."""

    candidates: Annotated[Lists, Field(description="texts to put in order: one list for all inputs, or one for each")]
    top: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = Field(None, description="only so many, the best")

    def columns(self) -> dict[str, list[Any]]:
        """As ``Question``; one list of candidates is every input's."""
        lists = _for_each(self.candidates, len(self.input), "candidates")
        if sum(map(len, lists)) > MOST_CANDIDATES:
            raise RequestError(
                f"there are more than {MOST_CANDIDATES} candidates of all inputs together",
                status=422,
                code="invalid-request",
                where="candidates",
                hint="ask in several requests",
            )
        return {"text": self.input, "candidates": lists}

    def said(self, answers: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Each ranking with its candidates' places in the request, from 0."""
        lists = _for_each(self.candidates, len(self.input), "candidates")
        return [{"ranking": self._placed(a["ranking"], shown)} for a, shown in zip(answers, lists, strict=True)]

    def _placed(self, ranking: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> list[dict[str, Any]]:
        places: dict[str, deque[int]] = defaultdict(deque)
        for place, text in enumerate(shown):
            places[text].append(place)
        return [{"index": places[one["text"]].popleft(), **tidy(one)} for one in ranking][: self.top]


def tidy(value: Any) -> Any:
    """An answer as it is sent: numbers with the digits that they have, labels' scores highest first.

    >>> tidy({"scores": {"a": 0.123456789, "b": 0.9}, "spans": [{"start": 3, "score": 0.5}]})
    {'scores': {'b': 0.9, 'a': 0.1234568}, 'spans': [{'start': 3, 'score': 0.5}]}
    """
    if isinstance(value, float):
        return float(f"{value:.{PLACES}g}")
    if isinstance(value, list):
        return [tidy(one) for one in value]
    if isinstance(value, Mapping):
        pairs = [(name, tidy(one)) for name, one in value.items()]
        if len(pairs) > 1 and all(isinstance(one, float) for _, one in pairs):
            pairs.sort(key=lambda pair: -pair[1])
        return dict(pairs)
    return value


def _for_each(given: Sequence[Any], inputs: int, name: str) -> list[Any]:
    if len(given) not in (1, inputs):
        raise RequestError(
            f"there are {len(given)} of '{name}' for {inputs} inputs",
            status=422,
            code="invalid-request",
            where=name,
            hint="give one for all inputs, or one for each",
        )
    return list(given) if len(given) == inputs else list(given) * inputs


QUESTION: TypeAdapter[Question] = TypeAdapter(Question)
PAIRS: TypeAdapter[Pairs] = TypeAdapter(Pairs)
EXTRACT: TypeAdapter[Extract] = TypeAdapter(Extract)
RANK: TypeAdapter[Rank] = TypeAdapter(Rank)
