"""Money is whole numbers: no float can come into being in a module that handles amounts.

The modules below are read as syntax trees. Whatever makes a float is a finding: literals, the name ``float``, divisions
that are not of fractions or paths, ``round``, ``math``, negative powers, number formats that go through floats, clocks
and spans in seconds, averages of the database, and modules that calculate with floats.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import BigInteger, Float, Numeric

from feilun.store import tables

ROOT = Path(__file__).parent.parent
MODULES = (
    "feilun/bill/**/*.py",
    "feilun/accounts/terms.py",
    "feilun/accounts/tariffs.py",
    "feilun/accounts/tenants.py",
    *(
        f"feilun/store/{name}.py"
        for name in ("money", "ledger", "counts", "audit", "events", "outbox", "limits", "periods")
    ),
)
EXACT = {"gcd", "lcm", "isqrt", "comb", "perm"}  # of ``math``: whole numbers in, whole numbers out
PATHS = {"folder", "path", "root", "home"}
FRACTIONS = {"Fraction", "Decimal", "percent_of"}
FLOATING = {"numpy", "scipy", "statistics", "random", "cmath"}
SECONDS = {"timestamp", "total_seconds", "time", "monotonic", "perf_counter"}
FLOAT_FORMAT = re.compile(r"[eEfFgG%]$")
PERCENT_FORMAT = re.compile(r"%[-+ #0]*(\d+|\*)?(\.(\d+|\*))?[eEfFgG]")


class Allowed(NamedTuple):
    """What may be there, in which files and lines, and why no amount of money passes through it."""

    files: str
    kinds: set[str]
    why: str
    line: str = ""  # a regular expression that the line contains


ANY = {"literal", "float", "division", "power", "format", "round", "math", "seconds", "average", "module"}
ALLOWED = (
    Allowed("feilun/bill/forecast*.py", ANY, "statistics over draws of months to come: nobody is charged by them"),
    Allowed("feilun/bill/*_plot.py", {"literal", "float", "division"}, "where and how large something is in a picture"),
    Allowed("feilun/bill/masking.py", ANY, "how often masking finds what it should, with its interval"),
    Allowed(
        "feilun/bill/suppression.py", {"division"}, "exact fractions: algebra over groups", r"value / row\[first\]"
    ),
    Allowed("feilun/bill/products.py", {"division", "round"}, "mean length of texts", r'"characters": round\('),
    Allowed("feilun/bill/pdf.py", {"literal", "float", "division"}, "points on a page; amounts come as text"),
    Allowed("feilun/bill/stripe_sender.py", {"literal", "float"}, "seconds to wait", r"\b(TIMEOUT_S|timeout_s)\b"),
    Allowed("feilun/bill/webhooks.py", {"literal", "float"}, "seconds to wait", r"\b(TIMEOUT_S|timeout_s)\b"),
    Allowed("feilun/store/ledger.py", {"float"}, "seconds of a lease", r"\blease_s: float"),
)


class Finding(NamedTuple):
    file: str
    line: int
    kind: str
    source: str


def findings(file: str, text: str) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(text)):
        kind = _kind(node)
        if kind:
            line = getattr(node, "lineno", 0)
            yield Finding(file, line, kind, text.splitlines()[line - 1].strip())


def _kind(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=float() | complex()):
            return "literal"
        case ast.Name(id="float" | "complex"):
            return "float"
        case ast.BinOp(op=ast.Div(), left=left, right=right) if not (_is_fraction(node) or _is_path(left, right)):
            return "division"
        case ast.AugAssign(op=ast.Div()):
            return "division"
        case ast.Attribute(attr="truediv" | "__truediv__" | "__rtruediv__"):
            return "division"
        case ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(op=ast.USub()), left=left) if not _is_fraction(left):
            return "power"
        case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(text))) if PERCENT_FORMAT.search(text):
            return "format"
        case ast.Call(func=ast.Name(id="round")):
            return "round"
        case ast.Attribute(value=ast.Name(id="math"), attr=name) if name not in EXACT:
            return "math"
        case ast.ImportFrom(module="math", names=names) if {alias.name for alias in names} - EXACT:
            return "math"
        case ast.FormattedValue(format_spec=ast.JoinedStr(values=[*_, ast.Constant(value=str(spec))])):
            return "format" if FLOAT_FORMAT.search(spec) else None
        case ast.Call(func=ast.Attribute(attr=name), args=[], keywords=[]) if name in SECONDS:
            return "seconds"
        case ast.Attribute(attr="avg", value=ast.Name(id="func")):
            return "average"
        case ast.Import(names=names) if {alias.name.partition(".")[0] for alias in names} & FLOATING:
            return "module"
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in FLOATING:
            return "module"
    return None


def _is_fraction(node: ast.AST) -> bool:
    """Whether an expression is arithmetic with a Fraction or Decimal, as can be seen from how it is written."""
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in FRACTIONS
        case ast.BinOp(left=left, right=right):
            return _is_fraction(left) or _is_fraction(right)
        case ast.UnaryOp(operand=operand):
            return _is_fraction(operand)
    return False


def _is_path(left: ast.AST, right: ast.AST) -> bool:
    """Whether it joins a path: one side is text, or the left one is called as paths are."""
    if isinstance(left, ast.Name | ast.Attribute):
        name = left.id if isinstance(left, ast.Name) else left.attr
        if name in PATHS:
            return True
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for n in (left, right)
    )


def money_modules() -> list[str]:
    return sorted({str(path.relative_to(ROOT)) for pattern in MODULES for path in ROOT.glob(pattern)})


def is_allowed(found: Finding) -> bool:
    return any(
        fnmatch(found.file, one.files) and found.kind in one.kinds and re.search(one.line, found.source)
        for one in ALLOWED
    )


def test_no_float_can_come_into_being_where_amounts_are_handled() -> None:
    modules = money_modules()
    assert {"feilun/bill/rating.py", "feilun/bill/invoices.py", "feilun/store/ledger.py"} <= set(modules)
    found = [f for m in modules for f in findings(m, (ROOT / m).read_text("utf-8")) if not is_allowed(f)]
    assert not found, "\n".join(f"{f.file}:{f.line} {f.kind}: {f.source}" for f in found)


def test_every_exception_is_needed() -> None:
    found = [f for m in money_modules() for f in findings(m, (ROOT / m).read_text("utf-8"))]
    for one in ALLOWED:
        mine = [f for f in found if fnmatch(f.file, one.files) and re.search(one.line, f.source)]
        assert {f.kind for f in mine} & one.kinds, f"nothing in {one.files} needs {sorted(one.kinds)} any more"


def test_what_charges_does_not_import_what_estimates() -> None:
    for module in money_modules():
        if fnmatch(module, "feilun/bill/forecast*.py") or module in (
            "feilun/bill/settings.py",
            "feilun/bill/office.py",
        ):
            continue
        tree = ast.parse((ROOT / module).read_text("utf-8"))
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not [name for name in names if name.startswith("feilun.bill.forecast")], module


def test_no_column_holds_a_float_and_every_amount_is_a_whole_number_of_64_bits() -> None:
    for table in tables.metadata.tables.values():
        for column in table.columns:
            assert not isinstance(column.type, Float | Numeric), f"{table.name}.{column.name}"
            if column.name.endswith("_nano"):
                assert isinstance(column.type, BigInteger), f"{table.name}.{column.name}"


PLANTED = {
    "fee = 19.99": "literal",
    "fee = 1e9": "literal",
    "fee = total * 2j": "literal",
    "fee = float(total)": "float",
    "fees = list(map(float, totals))": "float",
    "def fee(nano: float) -> int: ...": "float",
    "fee = total / 30": "division",
    "fee = int(total * days / 30)": "division",
    "total /= 30": "division",
    "fee = operator.truediv(total, 30)": "division",
    "fee = (total).__truediv__(30)": "division",
    "fee = total * 10 ** -9": "power",
    "fee = '%.2f' % total": "format",
    "fee = f'{total:.2f}'": "format",
    "fee = f'{total:,.3g}'": "format",
    "share = f'{part:.1%}'": "format",
    "fee = round(total * 3, -7)": "round",
    "fee = math.floor(total)": "math",
    "from math import ceil": "math",
    "from math import gcd, sqrt": "math",
    "fee = span.total_seconds() * price": "seconds",
    "now = time.time()": "seconds",
    "now = moment.timestamp()": "seconds",
    "query = select(func.avg(usage.amount_nano))": "average",
    "import numpy as np": "module",
    "from statistics import mean": "module",
}


@pytest.mark.parametrize(("planted", "kind"), PLANTED.items())
def test_a_planted_float_is_caught(planted: str, kind: str) -> None:
    assert kind in {found.kind for found in findings("feilun/bill/rating.py", planted)}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_float_that_is_planted_in_a_real_module_is_caught(planted: str) -> None:
    for module in ("feilun/bill/rating.py", "feilun/store/ledger.py", "feilun/accounts/tariffs.py"):
        spoilt = (ROOT / module).read_text("utf-8") + "\n" + planted + "\n"
        assert [f for f in findings(module, spoilt) if not is_allowed(f)], module


@pytest.mark.parametrize(
    "clean",
    [
        "fee = total * days // 30",
        "whole, rest = divmod(total, 30)",
        "fee = nano * Fraction(percent) / 100",
        "rate = 1 / Fraction(back)",
        "file = folder / 'invoice.pdf'",
        "file = folder / f'{number}.pdf'",
        "file = work.folder / products.PEOPLE",
        "fee = f'{total:,} {rest:09d}'",
        "from math import gcd",
        "fee = 10 ** 9 + math.gcd(total, 30)",
        "now = time.time_ns() // 1_000",
        "text = '100 % of it' % ()",
    ],
)
def test_whole_numbers_and_fractions_pass(clean: str) -> None:
    assert not list(findings("feilun/bill/rating.py", clean))
