"""Resamples that say nothing are evidence of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from feilun.evaluate import figures, page, plots
from feilun.tasks import bootstrap

NOTHING = np.full(1000, np.nan)


def test_resamples_that_say_nothing_do_not_change_the_p_value() -> None:
    noise = np.random.default_rng(0).normal(0.3, 1, 500)
    alone = bootstrap.p_value(noise)
    assert alone is not None and 0.5 < alone < 1
    assert bootstrap.p_value(np.concatenate([noise, NOTHING])) == alone
    assert bootstrap.interval(np.concatenate([noise, NOTHING])) == bootstrap.interval(noise)


def test_where_no_resample_says_anything_there_is_neither_p_nor_interval() -> None:
    assert bootstrap.p_value(NOTHING) is None
    assert bootstrap.interval(NOTHING) is None
    assert figures.with_interval(0.5, bootstrap.interval(NOTHING)) == {"value": 0.5, "low": None, "high": None}


def test_a_figure_without_an_interval_is_drawn_as_a_dot_and_told_without_one() -> None:
    figure = figures.with_interval(2.5, None) | {"other": 1.0, "p": None}
    rows = [("films", [figure])]
    least, most = plots.span(rows)
    assert least < 2.5 < most
    drawn = plots.intervals(rows, least, most)
    assert drawn.count("<circle") == 1 and f"stroke='{plots.BLUE}'/></svg>" in drawn and "None" not in drawn
    told = page._against({"against": {"model": "a" * 64, "metrics": {"pearson": figure}}})
    assert "<td>+2.5000</td><td>-</td>" in told


@pytest.mark.parametrize("differences", [[0.1] * 99, [-0.1] * 99])
def test_a_difference_that_every_resample_tells_is_as_sure_as_their_number_allows(differences: list[float]) -> None:
    assert bootstrap.p_value(np.array(differences)) == 0.02
