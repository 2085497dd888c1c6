"""Does the model notice texts of another kind? How well its scores tell them from the held-out rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feilun.evaluate import figures
from feilun.evaluate.asking import Asked
from feilun.evaluate.figures import Bootstrap
from feilun.tasks import metrics_labels
from feilun.tasks.metrics import Floats

if TYPE_CHECKING:
    import polars as pl

FITTED_ON = 5000  # training rows, at the most, that say what is usual
TINY = 1e-12


def detect(asked: Asked, outside: pl.DataFrame, train: pl.DataFrame, how: Bootstrap) -> dict[str, Any]:
    """For each way to see that a text is unusual: area under the ROC curve of held-out rows against ``outside``.

    Ways: the best probability (Hendrycks and Gimpel 2017) and the entropy of all, of any model that answers one label
    with scores; the energy of the logits (Liu et al. 2020) and the Mahalanobis distance from the nearest class of the
    training rows (Lee et al. 2018), of a model whose weights are here as they were trained.

    Returns:
        For each way ``auroc`` with its interval and ``fpr95``: the share of foreign rows that pass for usual where 95 %
        of the usual ones do.
    """
    ways = _by_probability(asked, outside)
    if asked.model.facts.get("format") == "safetensors" and asked.task.HEAD in ("label", "labels", "number", "vector"):
        ways |= _by_states(asked, outside, train)
    foreign = np.array([[False]] * asked.frame.height + [[True]] * outside.height)
    found: dict[str, Any] = {}
    for name, (usual, strange) in ways.items():
        scores = np.concatenate([usual, strange])[:, None]
        area = metrics_labels.ranked("auroc", foreign, scores, metrics_labels.roc)
        passes = float((strange <= np.quantile(usual, 0.95)).mean())
        found[name] = {**figures.of([area], how), "fpr95": passes}
    return {"n": outside.height, "ways": found}


def _by_probability(asked: Asked, outside: pl.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    usual = asked.probabilities
    if usual is None:
        return {}
    strange = np.asarray(asked.task.answer(asked.engine, outside).raw)
    both = [scores.astype(np.float64) for scores in (usual, strange)]
    entropy = [-(p * np.log(np.maximum(p, TINY))).sum(1) for p in both]
    return {"best probability": (-both[0].max(1), -both[1].max(1)), "entropy": (entropy[0], entropy[1])}


def _by_states(asked: Asked, outside: pl.DataFrame, train: pl.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    usual, strange = (_states(asked, frame) for frame in (asked.frame, outside))
    ways: dict[str, tuple[Floats, Floats]] = {}
    if asked.task.HEAD == "label":
        energies = [-_log_sum(outputs) for _, outputs in (usual, strange)]
        ways["energy"] = (energies[0], energies[1])
    few = train.sample(min(FITTED_ON, train.height), seed=0)
    if few.height > 1:
        known = few["label"].to_numpy() if "label" in few.columns else np.zeros(few.height)
        fitted = fit(_states(asked, few)[0], known)
        ways["Mahalanobis distance"] = (distance(usual[0], *fitted), distance(strange[0], *fitted))
    return ways


def _states(asked: Asked, frame: pl.DataFrame) -> tuple[Floats, Floats]:
    """Mean states (N, H) and outputs before they become scores (N, C), caught where the head sees them."""
    import torch

    from feilun.models import tokens

    rows = asked.engine.encode(frame["text"].to_list())
    network = asked.engine.network
    caught: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def catch(_: object, given: tuple[Any, Any], made: Any) -> None:
        weight = given[1].unsqueeze(-1).to(given[0].dtype)
        mean = (given[0] * weight).sum(1) / weight.sum(1)
        caught.append((mean.float().numpy(), made.float().numpy()))

    order: list[int] = []
    hook = network.head.register_forward_hook(catch)
    try:
        with torch.inference_mode():
            for chosen, width in tokens.rectangles([len(r) for r in rows], asked.engine.context):
                network(*(torch.from_numpy(part) for part in tokens.pad([rows[i] for i in chosen], width)))
                order += chosen
    finally:
        hook.remove()
    back = np.argsort(order)
    states, outputs = (np.concatenate([pair[i] for pair in caught]).astype(np.float64)[back] for i in (0, 1))
    return states, outputs


def _log_sum(outputs: Floats) -> Floats:
    top = outputs.max(1)
    total: Floats = top + np.log(np.exp(outputs - top[:, None]).sum(1))
    return total


def fit(states: Floats, labels: NDArray[Any]) -> tuple[Floats, Floats]:
    """The mean of each class, (C, H), and the inverse of the covariance that they share, (H, H)."""
    classes, number = np.unique(labels, return_inverse=True)
    means = np.stack([states[number == c].mean(0) for c in range(len(classes))])
    apart = states - means[number]
    covariance = apart.T @ apart / len(states)
    covariance += np.eye(len(covariance)) * (1e-3 * np.trace(covariance) / len(covariance) + TINY)  # few rows
    return means, np.linalg.inv(covariance)


def distance(states: Floats, means: Floats, inverse: Floats) -> Floats:
    """Squared Mahalanobis distance of each row from the nearest mean, (N,)."""
    from_each = [np.einsum("nh,hk,nk->n", states - m, inverse, states - m, optimize=True) for m in means]
    nearest: Floats = np.min(from_each, 0)
    return nearest
