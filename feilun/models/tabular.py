"""Models over named columns, as scikit-learn, LightGBM and others export them to ONNX; run by ONNX Runtime.

engine = load(folder)
outputs = engine.outputs(engine.rows([{"age": 31, "plan": "basic"}]))  # [(C,)], probabilities; or (1,), a number

The folder holds ``model.onnx`` and perhaps ``config.json``, whose ``feilun`` says what the graph cannot:

- ``columns``: the names of the numbers in the graph's one input, in their order. Where each column is an input
  of its own, the graph has their names.
- ``classes``: the names of the classes, in the order of the scores. Where the scores are a map, as skl2onnx makes them
  unless it is told otherwise, the graph has them.
- ``examples``: a few records that the model answers. They are the probes of its release; made-up ones by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feilun.errors import ArtifactError, DataError, did_you_mean
from feilun.models import tokens
from feilun.models.threads import ENGINE, named

FILE = "model.onnx"
TASK = "predict"
SAMPLES = 8
MOST_NAME = 64  # characters of a name or a value that a refusal repeats
_TYPES: Mapping[str, tuple[str, type[Any]]] = {
    "tensor(float)": ("number", np.float32),
    "tensor(double)": ("number", np.float64),
    "tensor(int64)": ("whole number", np.int64),
    "tensor(int32)": ("whole number", np.int32),
    "tensor(bool)": ("true or false", np.bool_),
    "tensor(string)": ("text", np.object_),
}
_SCORES = ("tensor(float)", "tensor(double)")
_LABELS = ("tensor(int64)", "tensor(int32)", "tensor(string)")
Value = str | int | float | bool | None
Row = tuple[Value, ...]
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Column:
    """One column: its name, what stands in it, in words, and the array that the graph takes."""

    name: str
    holds: str
    dtype: type[Any]


class Tabular:
    """A model of named columns; safe to call from any thread.

    ``labels`` are the classes in the order of an output's numbers; none where the answer is a number. ``context`` is 0:
    there are no tokens.
    """

    head = "columns"
    context = 0

    def __init__(self, session: Any, declared: Mapping[str, Any], where: str) -> None:
        self._session = session
        self._where = where
        self._faults = _faults()
        self._inputs = [node.name for node in session.get_inputs()]
        self.columns = self._columns(_names(declared, "columns", where))
        self._scores, self._mapped, judges = self._outputs()
        self._keys: list[Any] = []
        self.labels: tuple[str, ...] = ()
        self.samples = self._sampled(declared.get("examples"))
        if judges or _names(declared, "classes", where):
            self.labels = self._classes(_names(declared, "classes", where))
            self._check_probabilities()

    def rows(self, records: Records) -> list[Row]:
        """The values of records in the order of the columns; null is a missing number.

        Raises:
            DataError: a column is missing or unknown, or holds something else; ``where`` says which record, and the
                message names every such column of it.
        """
        found = []
        for place, record in enumerate(records):
            wrong = [self._wrong(column, record) for column in self.columns]
            known = [column.name for column in self.columns]
            strange = [name for name in record if name not in known]
            said = [w for w in wrong if w] + [f"the model has no column '{_short(name)}'" for name in strange]
            if said:
                reads = ", ".join(f"{c.name} ({c.holds})" for c in self.columns)
                hint = (did_you_mean(strange[0], known) if strange else None) or f"it reads {_short(reads, 500)}"
                raise DataError(
                    _short("; ".join(said), 1000), where=f"records.{place}", hint=hint, code="columns-do-not-fit"
                )
            found.append(tuple(record[name] for name in known))
        return found

    def outputs(self, rows: Sequence[Sequence[Any]]) -> list[NDArray[np.float32]]:
        """Each row's probabilities, (C,), or its number, (1,); NaN where the model cannot answer the row."""
        if not rows:
            return []
        try:
            return self._run(rows)
        except self._faults:
            if len(rows) == 1:  # a category that it never saw, say
                return [np.full(max(1, len(self.labels)), np.nan, np.float32)]
            return [self.outputs([row])[0] for row in rows]  # one row must not spoil those of others

    def answers(self, outputs: Sequence[NDArray[np.float32]]) -> list[dict[str, Any]]:
        """What is answered to each row: label, score and every class's score, highest first; or the number.

        Raises:
            DataError: the model has no answer to one of them.
        """
        for place, output in enumerate(outputs):
            if not np.isfinite(output).all():
                hint = "a value is missing or was never seen, and the model was not made for that"
                raise DataError("the model has no answer", where=f"records.{place}", hint=hint, code="no-answer")
        return [self._said(output.tolist()) for output in outputs]

    def ask(self, records: Records) -> list[dict[str, Any]]:
        """What the model says of each record.

        Raises:
            DataError: see ``rows`` and ``answers``.
        """
        return self.answers(self.outputs(self.rows(records)))

    def _said(self, row: list[float]) -> dict[str, Any]:
        if not self.labels:
            return {"score": row[0]}
        scores = dict(sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1]))
        label = next(iter(scores))
        return {"label": label, "score": scores[label], "scores": scores}

    def _run(self, rows: Sequence[Sequence[Any]]) -> list[NDArray[np.float32]]:
        found = self._session.run(None, self._feed(rows))[self._scores]
        if self._mapped:
            return [np.array([one[key] for key in self._keys or one], np.float32) for one in found]
        return list(np.asarray(found, np.float32).reshape(len(rows), -1))

    def _feed(self, rows: Sequence[Sequence[Any]]) -> dict[str, NDArray[Any]]:
        if len(self._inputs) == 1:
            return {self._inputs[0]: self._array(self.columns[0], rows)}
        return {column.name: self._array(column, [[row[i]] for row in rows]) for i, column in enumerate(self.columns)}

    def _array(self, column: Column, cells: Sequence[Sequence[Any]]) -> NDArray[Any]:
        if column.holds == "number":
            cells = [[np.nan if cell is None else cell for cell in row] for row in cells]
        return np.array(cells, column.dtype)

    def _wrong(self, column: Column, record: Mapping[str, Any]) -> str | None:
        """What is wrong with a record's cell, if anything is."""
        if column.name not in record:
            return f"the column '{column.name}' is missing"
        value = record[column.name]
        match column.holds:
            case "text":
                fits = isinstance(value, str)
            case "true or false":
                fits = isinstance(value, bool)
            case "whole number":
                fits = isinstance(value, int) and not isinstance(value, bool) and _holds(value, column.dtype)
            case _:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                fits = value is None or (number and abs(value) <= float(np.finfo(column.dtype).max))
        return None if fits else f"the column '{column.name}' takes {column.holds}, not {_short(repr(value))}"

    def _columns(self, declared: tuple[str, ...]) -> tuple[Column, ...]:
        nodes = self._session.get_inputs()
        for node in nodes:
            if node.type not in _TYPES or len(node.shape) != 2 or isinstance(node.shape[0], int):
                raise self._refused(
                    f"its input '{node.name}' ({node.type}, {node.shape}) is no column of a table",
                    "inputs are columns with a free number of rows: FloatTensorType([None, 3]), say",
                )
        if len(nodes) == 1:
            width = nodes[0].shape[1]
            names = declared or ((nodes[0].name,) if width == 1 else ())
            if not names or (isinstance(width, int) and len(names) != width):
                what = f"its input has {width} columns, and {len(declared) or 'none'} of them have names"
                raise self._refused(what, 'config.json: {"feilun": {"columns": ["age", "plan"]}}, in their order')
            return tuple(Column(name, *_TYPES[nodes[0].type]) for name in names)
        if any(node.shape[1] not in (1, None) for node in nodes):
            raise self._refused("one of its inputs has several columns", "one input for all columns, or one for each")
        if declared and set(declared) != set(self._inputs):
            raise self._refused(f"its columns are {', '.join(self._inputs)}", "config.json names others")
        return tuple(Column(node.name, *_TYPES[node.type]) for node in nodes)

    def _outputs(self) -> tuple[int, bool, bool]:
        """Which output has the scores, whether they are a map, and whether the answer is a class."""
        kinds = [node.type for node in self._session.get_outputs()]
        mapped = [i for i, kind in enumerate(kinds) if kind.startswith("seq(map(")]
        scores = mapped or [i for i, kind in enumerate(kinds) if kind in _SCORES]
        if len(scores) != 1:
            hint = "one output of scores: probabilities of classes, or one number"
            raise self._refused(f"it puts out {', '.join(kinds)}", hint)
        return scores[0], bool(mapped), bool(mapped) or any(kind in _LABELS for kind in kinds)

    def _sampled(self, given: Any) -> list[dict[str, Any]]:
        """Records that the model answers: those that were given, else made up."""
        records = _made_up(self.columns) if given is None else given
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise self._refused("its examples are no records", 'config.json: "examples": [{"age": 31}]')
        found = [
            record
            for record, output in zip(records, self.outputs(self.rows(records)), strict=True)
            if np.isfinite(output).all()
        ]
        if not found or (given is not None and len(found) < len(records)):
            hint = 'give records that it answers, in config.json: {"feilun": {"examples": [{"plan": "basic"}]}}'
            raise self._refused("it answers none of the records that it was tried with", hint)
        return found

    def _classes(self, declared: tuple[str, ...]) -> tuple[str, ...]:
        row = self._session.run(None, self._feed(self.rows(self.samples[:1])))[self._scores][0]
        if self._mapped:
            self._keys = sorted(row)
        names = declared or tuple(str(key) for key in self._keys)
        width = len(row) if self._mapped else int(np.size(row))
        if len(names) != width:
            what = f"it scores {width} classes, and {len(names) or 'none'} of them have names"
            raise self._refused(what, 'config.json: {"feilun": {"classes": ["stays", "leaves"]}}, in their order')
        if self._mapped and isinstance(self._keys[0], str) and declared and set(declared) != set(self._keys):
            raise self._refused(f"its classes are {', '.join(self._keys)}", "config.json names others")
        if self._mapped and isinstance(self._keys[0], str):
            self._keys = list(names)
        return names

    def _check_probabilities(self) -> None:
        """Scores of classes are probabilities, and of names that it gives itself the best one's comes first."""
        rows = self.rows(self.samples)
        scores = np.stack(self.outputs(rows)).astype(np.float64)
        if scores.min() < -1e-6 or np.abs(scores.sum(1) - 1).max() > 1e-3:
            hint = "calibrate it first: sklearn.calibration.CalibratedClassifierCV"
            raise self._refused("the scores of its classes are no probabilities", hint)
        for node, found in zip(self._session.get_outputs(), self._session.run(None, self._feed(rows)), strict=True):
            if node.type == "tensor(string)":
                for said, row in zip(np.ravel(found).tolist(), scores, strict=True):
                    if said not in self.labels or row[self.labels.index(said)] < row.max() - 1e-6:
                        what = f"it says '{_short(said)}' where the classes have another order"
                        raise self._refused(what, "config.json: classes in the order of the scores (classes_)")

    def _refused(self, what: str, hint: str) -> ArtifactError:
        return ArtifactError(f"the ONNX model cannot be served: {what}", where=self._where, hint=hint)


def load(folder: Path) -> Tabular:
    """The model in a folder.

    Raises:
        ArtifactError: there is none, ONNX Runtime cannot read it, or it is not one of named columns.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # a row is microseconds; threads would only spin
    options.log_severity_level = 4  # its messages may hold values
    place = folder / FILE
    unreadable: tuple[type[Exception], ...] = (OSError, *_faults())
    try:
        with named(ENGINE):
            session = onnxruntime.InferenceSession(place.read_bytes(), options, providers=["CPUExecutionProvider"])
    except unreadable as error:
        hint = str(error).strip().splitlines()[-1][:200] if str(error).strip() else None
        raise ArtifactError("ONNX Runtime cannot load the model", where=str(place), hint=hint) from error
    declared = tokens.told(folder) if (folder / "config.json").exists() else {}
    return Tabular(session, declared, str(place))


def _faults() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: classes of its own without a parent, and Python's for inputs of another shape."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [one for one in vars(state).values() if isinstance(one, type) and issubclass(one, Exception)]
    return (*own, RuntimeError, ValueError)


def _names(declared: Mapping[str, Any], what: str, where: str) -> tuple[str, ...]:
    given = declared.get(what, [])
    if not isinstance(given, list) or not all(isinstance(name, str) and name for name in given):
        raise ArtifactError(f"the {what} of the model are no list of names", where=where, hint="see config.json")
    if len(set(given)) != len(given):
        raise ArtifactError(f"two of the model's {what} have the same name", where=where, hint="see config.json")
    return tuple(given)


def _made_up(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """The same records for the same columns, over several orders of magnitude."""
    chance = np.random.default_rng(0)
    made: list[dict[str, Any]] = []
    for number in range(SAMPLES):
        size = 10.0 ** (number % 4)
        values: dict[str, Any] = {}
        for column in columns:
            drawn = float(chance.normal(0, size))
            by_kind = {"text": "", "true or false": drawn > 0, "whole number": round(abs(drawn))}
            values[column.name] = by_kind.get(column.holds, round(drawn, 3))
        made.append(values)
    return made


def _holds(value: int, dtype: type[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= value <= int(limits.max)


def _short(text: str, most: int = MOST_NAME) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
