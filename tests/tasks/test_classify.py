from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from feilun import tasks
from feilun.errors import DataError, SettingError
from feilun.models import network
from feilun.tasks import classify
from feilun.tasks.options import TaskOptions
from tests.models import tiny

LABELS = sorted(tiny.SAYS)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> network.Network:
    made = network.load(tiny.write_base(tmp_path_factory.mktemp("base")), tiny.CONTEXT)
    made.relabel(LABELS, seed=0)
    return made


def test_a_task_is_found_by_name_and_a_mistyped_one_gets_a_hint() -> None:
    assert tasks.get("classify") is classify
    with pytest.raises(SettingError, match="did you mean 'classify'"):
        tasks.get("clasify")


@pytest.mark.parametrize("labels", [[], ["good"], ["good", "good"]])
def test_fewer_than_two_labels_are_refused(labels: list[str]) -> None:
    """RELIABILITY 44: one class."""
    with pytest.raises(DataError, match="at least two labels"):
        classify.labels(pl.DataFrame({"label": labels}, schema={"label": pl.String}))


def test_a_row_has_the_same_loss_in_any_batch(net: network.Network) -> None:
    examples = classify.examples(tiny.frame(40), net, TaskOptions())
    together = classify.losses(net, examples, range(40)).detach()
    alone = torch.cat([classify.losses(net, examples, [i]).detach() for i in range(40)])
    torch.testing.assert_close(together, alone)


def test_the_loss_is_the_cross_entropy_of_the_true_label(net: network.Network) -> None:
    examples = classify.examples(tiny.frame(40), net, TaskOptions())
    scores = network.Answering(net).run(examples.rows)
    expected = -np.log(scores[np.arange(40), examples.targets])
    np.testing.assert_allclose(classify.losses(net, examples, range(40)).detach().numpy(), expected, atol=1e-5)


def test_balance_asks_more_of_frequent_labels(net: network.Network) -> None:
    frame = pl.concat([tiny.frame(90, labels=["good"]), tiny.frame(10, labels=["bad"]), tiny.frame(1, labels=["fair"])])
    plain = classify.examples(frame, net, TaskOptions())
    balanced = classify.examples(frame, net, TaskOptions(balance=1.0))
    assert plain.offset.tolist() == [0, 0, 0]
    np.testing.assert_allclose(np.exp(balanced.offset), np.array([11, 2, 91]) / 104, rtol=1e-5)
