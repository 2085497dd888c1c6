from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feilun.errors import DataError, SettingError
from feilun.trials import law, plots
from feilun.trials.curve import learning_curve
from tests.models import tiny
from tests.trials.test_search import subject


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[tiny.Bench]:
    made = tiny.Bench(tmp_path)
    yield made
    made.store.database.close()


@given(a=st.floats(0, 0.3), b=st.floats(0.5, 5), c=st.floats(0.1, 1.5))
def test_a_law_without_noise_is_found_and_its_errors_fall(a: float, b: float, c: float) -> None:
    rows = np.array([100.0, 200, 400, 800, 1600])
    errors = a + b * rows**-c
    found = law.fit(rows, errors[None])
    assert np.allclose(found.a + found.b * rows**-found.c, errors, atol=2e-3 * errors.max())
    assert found.a[0] >= 0 and found.at(6400)[0] <= found.at(1600)[0] + 1e-12
    assert found.at(3200)[0] == pytest.approx(a + b * 3200**-c, abs=0.02 * errors.max())


def test_the_interval_of_the_law_at_twice_the_data_holds_the_truth_as_often_as_it_says() -> None:
    """Chance of known size around a known law: about 95 of 100 intervals hold what the law is at twice the rows."""
    random = np.random.default_rng(0)
    rows = np.repeat([100.0, 200, 400, 800, 1600], 3)
    inside = 0
    for trial in range(60):
        errors = 0.05 + 2 * rows**-0.5 + random.normal(0, 0.01, len(rows))
        drawn = law.draws(rows, errors, trial)[1].at(3200)
        low, high = np.percentile(drawn, [2.5, 97.5])
        inside += low <= 0.05 + 2 * 3200**-0.5 <= high
    assert 0.85 <= inside / 60 <= 1


def test_more_data_helps_is_measured_on_the_same_held_out_rows_and_reused(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench, epochs=6)
    found = learning_curve(films, sizes=4, draws=2, metric="accuracy")
    assert [p.rows for p in found.points] == [15, 30, 60, 120] * 2 and found.rows == 120 and found.held_out == 40
    assert found.metric == "accuracy" and found.error == "1 - figure"
    now, twice, four = found.expected
    assert [e["rows"] for e in found.expected] == [120, 240, 480]
    assert now["gain"] == {"value": 0, "low": 0, "high": 0}
    assert now["value"] <= twice["value"] <= four["value"] <= 1
    assert all(e["low"] <= e["value"] <= e["high"] for e in found.expected)
    assert four["high"] - four["low"] >= now["high"] - now["low"]
    loss = learning_curve(films, sizes=4, draws=2, metric="log_loss")
    assert all(p.reused for p in loss.points) and loss.error == "figure" and not loss.higher_is_better
    assert loss.expected[2]["value"] <= loss.expected[0]["value"]
    for name in ("curve.svg", "curve.png"):
        plots.curve(found, tmp_path / name)
    first = (tmp_path / "curve.svg").read_bytes()
    plots.curve(found, tmp_path / "curve.svg")
    assert first == (tmp_path / "curve.svg").read_bytes() and b"<svg" in first


def test_what_makes_no_sense_is_refused(bench: tiny.Bench, tmp_path: Path) -> None:
    films = subject(tmp_path, bench, epochs=1)
    with pytest.raises(SettingError, match="at least 4 sizes"):
        learning_curve(films, sizes=3)
    with pytest.raises(DataError, match="too few for 9 sizes"):
        learning_curve(films, sizes=9)
    with pytest.raises(SettingError, match="cannot have 3 labels"):
        learning_curve(films, sizes=7)
    with pytest.raises(SettingError, match="no metric 'acuracy'") as refused:
        learning_curve(films, sizes=4, metric="acuracy")
    assert "did you mean 'accuracy'" in str(refused.value)
    with pytest.raises(SettingError, match=r"end it in|cannot be"):
        plots.check(tmp_path / "curve.pdf")
