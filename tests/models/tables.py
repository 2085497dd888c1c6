"""Models of a few named columns, made by scikit-learn and LightGBM and exported as their users export them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

PLANS = ("basic", "team", "whole house")
CLASSES = ("leaves", "stays")
Said = Callable[[list[dict[str, Any]]], Any]  # what the model says by its own library: (N, C), or (N,)


def customers(rows: int = 300, seed: int = 0) -> pl.DataFrame:
    """Who is young, on the basic plan and seldom there leaves."""
    chance = np.random.default_rng(seed)
    age, visits = chance.integers(18, 80, rows), chance.exponential(5, rows).round(2)
    plan = chance.choice(PLANS, rows)
    leaning = 0.05 * (age - 45) + 0.4 * (visits - 5) + np.where(plan == "basic", -1.0, 0.7)
    leaning += chance.normal(0, 0.3, rows)
    return pl.DataFrame({"age": age, "visits": visits, "plan": plan, "stays": leaning > 0, "worth": leaning * 100})


def records(frame: pl.DataFrame, *columns: str) -> list[dict[str, Any]]:
    return frame.select(columns).to_dicts()


def pipeline(place: Path) -> Said:
    """A pipeline of scikit-learn over three columns, each an input of its own; skl2onnx names the classes in a map."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = customers()
    made = make_pipeline(
        ColumnTransformer([("n", StandardScaler(), [0, 1]), ("c", OneHotEncoder(handle_unknown="ignore"), [2])]),
        LogisticRegression(),
    )
    rows = np.array(frame.select("age", "visits", "plan").rows(), dtype=object)
    made.fit(rows, np.array(CLASSES)[frame["stays"].cast(pl.Int64).to_numpy()])
    inputs = [
        ("age", Int64TensorType([None, 1])),
        ("visits", FloatTensorType([None, 1])),
        ("plan", StringTensorType([None, 1])),
    ]
    place.write_bytes(to_onnx(made, initial_types=inputs).SerializeToString())

    def said(asked: list[dict[str, Any]]) -> Any:
        return made.predict_proba(np.array([[r["age"], r["visits"], r["plan"]] for r in asked], dtype=object))

    return said


def boosted(place: Path) -> Said:
    """LightGBM over two numbers in one input; their names and those of the classes stand beside the graph."""
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    frame = customers()
    numbers = frame.select("age", "visits").to_numpy().astype(np.float32)
    made = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.fit(numbers, frame["stays"].cast(pl.Int64).to_numpy())
        graph = convert_lightgbm(made, initial_types=[("x", FloatTensorType([None, 2]))], zipmap=False)
    place.write_bytes(graph.SerializeToString())
    declare(place, columns=["age", "visits"], classes=list(CLASSES))

    def said(asked: list[dict[str, Any]]) -> Any:
        rows = [[np.nan if r[c] is None else r[c] for c in ("age", "visits")] for r in asked]
        return made.booster_.predict(np.array(rows, np.float32))

    return said


def number(place: Path) -> Said:
    """A number for two numbers, by gradient boosting of scikit-learn."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor

    frame = customers()
    numbers = frame.select("age", "visits").to_numpy().astype(np.float32)
    made = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(numbers, frame["worth"].to_numpy())
    place.write_bytes(to_onnx(made, numbers[:1]).SerializeToString())
    declare(place, columns=["age", "visits"])
    return lambda asked: made.predict(np.array([[r["age"], r["visits"]] for r in asked], np.float32))


def declare(place: Path, **said: Any) -> None:
    """What stands beside a graph."""
    place.with_suffix(".json").write_text(json.dumps({"feilun": said}), "utf-8")
