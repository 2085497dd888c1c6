"""Chat templates as transformers renders them, with an end: a template comes with a model, from whoever made that.

What a template may do is counted in characters: of what it writes and puts together, and for each turn of a loop and
each macro that is called, as many as the template has. What could grow beyond that in one go is refused beforehand.
"""

from __future__ import annotations

import contextvars
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST = 200_000_000  # characters: about two seconds
STEP = 200  # what the smallest step counts
NUMBER = 1_000_000  # the highest number that a function is given
BITS = 4096  # of a product
STRANGE = frozenset(["format", "format_map", "translate", "expandtabs", "encode", "maketrans"])  # methods of texts
NEEDLESS = ("format", "urlize", "wordwrap", "xmlattr", "pprint")  # filters
LIGHT = frozenset(
    [
        "length",
        "count",
        "first",
        "last",
        "list",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
        "map",
        "default",
        "d",
        "items",
        "reverse",
    ]
)
_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("left")


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    return Bounded(len(template)).from_string(template)


def render(template: str, **names: Any) -> str:
    """What a template makes of ``names``.

    Raises:
        jinja2.TemplateError, and whatever a wrong program may raise.
    """
    token = _left.set([MOST])
    try:
        return _compiled(template).render(**names)
    finally:
        _left.reset(token)


class Bounded(ImmutableSandboxedEnvironment):
    """The environment of transformers' chat templates; ``size``: what a turn of a loop counts beside ``STEP``."""

    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self, size: int) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[Spoken, loopcontrols], finalize=_weighed, cache_size=0
        )
        self.size = size
        for name in NEEDLESS:
            del self.filters[name]
        self.filters = {name: _checked(name, function) for name, function in self.filters.items()}
        self.filters |= {"tojson": _json, "weighed": _weighed, "turns": self._turns}
        self.tests = {name: _compared(function) for name, function in self.tests.items()}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = _through("turns", loop.iter)
        for compared in tree.find_all(nodes.Compare):
            compared.expr = _through("weighed", compared.expr)
        for joined in tree.find_all(nodes.Concat):
            joined.nodes = [_through("weighed", part) for part in joined.nodes]
        for item in tree.find_all(nodes.Getitem):
            if isinstance(item.arg, nodes.Slice):
                item.node = _through("weighed", item.node)
        return tree

    def _turns(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            _spend(STEP + self.size)
            yield value

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what a template calls, if that comes to an end."""
        if isinstance(obj, LoopContext | Macro):
            _spend(STEP + self.size)
            args = tuple(self._turns(a) for a in args) if isinstance(obj, LoopContext) else args
        else:
            owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
            if name in STRANGE:
                raise SecurityError(f"'{name}' is not for chat templates")
            _check(name, [owner, *args] if isinstance(owner, str | list | tuple | dict) else list(args), kwargs)
        return _sized(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute, if the result is of a size that can be."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("'%' of a text is not for chat templates")
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > BITS and operator in ("*", "**"):
                raise SecurityError("a number is too high")
        elif operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(times, int) and hasattr(one, "__len__"):
                    _spend(len(one) * max(0, times))
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            _spend(len(left) + len(right))
        return super().call_binop(context, operator, left, right)


class Spoken(Extension):
    """``{% generation %}``: transformers marks with it what an answer is; here it is what stands in it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Any) -> nodes.Node:
        """The block as a call of itself."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("said"), [], [], body).set_lineno(line)

    def said(self, caller: Callable[[], str]) -> str:
        """What stands in the block."""
        return caller()


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def _spend(count: int) -> None:
    left = _left.get()
    left[0] -= count
    if left[0] < 0:
        raise SecurityError("it does not come to an end")


def _weighed(value: Any) -> Any:
    """The value, after all that it would write was counted; lists that hold themselves often are as long as written."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        _spend(STEP + (len(one) if isinstance(one, str) else 0))
        if isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
    return value


def _sized(value: Any) -> Any:
    if isinstance(value, str | list | tuple | dict):
        _spend(STEP + len(value))
    return value


def _checked(name: str, function: Any) -> Any:
    """A filter that looks at what it is given; what jinja2 hands over beside that stays."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        if name == "join" and len(args) > first and not isinstance(args[first], str | list | tuple | dict):
            args = (*args[:first], list(args[first]), *args[first + 1 :])
        _check(name, list(args[first:]), kwargs)
        return _sized(function(*args, **kwargs))

    return bounded


def _check(name: str, args: list[Any], kwargs: Mapping[str, Any]) -> None:
    every = [*args, *kwargs.values()]
    for value in every:
        if isinstance(value, int) and abs(value) > NUMBER:
            raise SecurityError(f"'{name}' of so high a number is not for chat templates")
        if isinstance(value, int):
            _spend(abs(value))
        elif name not in LIGHT:
            _weighed(value)
    lengths = [len(v) for v in every if isinstance(v, str | list | tuple | dict)]
    if name == "replace" and len(args) > 2 and all(isinstance(v, str) for v in args[:3]):
        _spend(len(args[2]) * (len(args[0]) + 1) // max(1, len(args[1])))
    elif name == "join" and len(lengths) > 1:
        _spend(lengths[0] * lengths[1])
    elif name == "indent":
        _spend(max(lengths, default=0) * sum(v if isinstance(v, int) else len(v) for v in every[1:2]))


def _compared(function: Any) -> Any:
    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        for value in args if len(args) > 1 else ():
            _weighed(value)
        return function(*args, **kwargs)

    return bounded


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **told: Any) -> str:
    """As transformers has it: no HTML in it."""
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 16):
        raise SecurityError("'tojson' is indented by 16 spaces at the most")
    _weighed(value)
    return str(_sized(json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **told)))


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
