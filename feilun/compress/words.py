"""A tuned causal model as the one that is served: its graph, its weights in fewer bits, and what that changed.

Both models read the same right answers of held-out conversations. Before every token of an answer each says which token
it would write and how surprised it is by the right one; so a change is seen at every place, not only until the first
word that is another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feilun.errors import DataError, StepError

if TYPE_CHECKING:
    import polars as pl

    from feilun.compress.settings import CompressSettings
    from feilun.models.causal import Causal
    from feilun.models.paged import Paged

Taught = tuple[list[int], list[bool]]
GROUP = 64  # weights in a row that share a scale, in 4 bits


def write(network: Causal, settings: CompressSettings, folder: Path) -> None:
    """Export, quantise and save, for ``feilun.models.paged.load``.

    Raises:
        StepError: the network is not of a kind that can be exported, or ``settings`` are for encoders.
    """
    from feilun.compress import quantise
    from feilun.models import graph

    if settings.quantise == "int8-static":
        raise StepError(
            "the activations of a model that writes cannot be fixed", where="quantise", hint='"int8", "int4" or "none"'
        )
    model = graph.build(network)
    if settings.quantise == "int8":
        model = quantise.to_int8(model)
    elif settings.quantise == "int4":
        model = quantise.to_int4(model, GROUP)
    graph.save(model, network, folder)


def conversations(frame: pl.DataFrame) -> list[list[dict[str, str]]]:
    """Conversations with a right answer at their end, whether it is told or preferred.

    Raises:
        DataError: neither.
    """
    from feilun.tasks import generate

    told = [generate.conversation(row) for row in frame["messages"].to_list()]
    if "chosen" in frame.columns:
        answers = frame["chosen"].to_list()
        return [
            [*generate.before(messages), {"role": "assistant", "content": answer}]
            for messages, answer in zip(told, answers, strict=True)
        ]
    if not all(messages and messages[-1]["role"] == "assistant" for messages in told):
        raise DataError("compress needs conversations with an answer at their end", where="column messages")
    return told


def compare(network: Causal, small: Paged, asked: pl.DataFrame) -> dict[str, Any]:
    """Agreement of the trained model and the compressed one, token by token.

    Returns:
        n (tokens), rows, left_out (rows that the model cannot read whole), disagreement (the share of places where
        another token would be written), perplexity of the right answers before and after and its relative change, the
        mean and largest change of a token's log-probability, and the place that moved most.
    """
    from feilun.tasks import generate

    names = asked["id"].to_list()
    taught = generate.teach(network, conversations(asked), last=True)
    kept = [i for i, (row, _) in enumerate(taught) if len(row) <= network.positions]
    if not kept:
        raise DataError("no held-out conversation fits the model's positions", where="compress: examples")
    best: list[NDArray[np.bool_]] = []
    surprise: list[NDArray[np.float64]] = []
    worst: tuple[float, dict[str, Any]] = (-1.0, {})
    for i in kept:
        row, counts = taught[i]
        before, after = _looked(network, row, counts), small.look(row, counts)
        moved = np.abs(before[1] - after[1])
        best.append(before[0] != after[0])
        surprise.append(np.stack([before[1], after[1]]))
        if moved.max() > worst[0]:
            at = int(moved.argmax())
            worst = float(moved[at]), {"id": names[i]} | _place(network, row, counts, at, (before, after))
    changed, lost = np.concatenate(best), np.concatenate(surprise, 1)
    ways = [math.exp(min(700.0, float(mean))) for mean in lost.mean(1)]
    moved = np.abs(lost[0] - lost[1])
    return {
        "n": len(changed),
        "rows": len(kept),
        "left_out": len(taught) - len(kept),
        "disagreement": float(changed.mean()),
        "perplexity": {"before": ways[0], "after": ways[1], "change": ways[1] / ways[0] - 1},
        "logprob_change": {"mean": float(moved.mean()), "largest": float(moved.max())},
        "worst": worst[1],
    }


def check(found: dict[str, Any], settings: CompressSettings) -> None:
    """The gate.

    Raises:
        StepError: more tokens changed, or the right answers became more surprising, than ``settings`` allow.
    """
    allowed = max(settings.max_token_changes, 1 / found["n"])
    worse = found["perplexity"]["change"]
    if found["disagreement"] > allowed:
        what = (
            f"compression changed {found['disagreement']:.1%} of {found['n']} next tokens, more than the limit of "
            f"{settings.max_token_changes:.1%}"
        )
    elif not worse <= settings.max_perplexity_change:  # NaN must not pass
        what = (
            f"compression made right answers {worse:.1%} more perplexing, more than the limit of "
            f"{settings.max_perplexity_change:.1%}"
        )
    else:
        return
    raise StepError(
        what,
        where=f"row {found['worst']['id']} moved most",
        hint='quantise = "int8" or "none", or higher limits',
        code="parity",
    )


def _looked(
    network: Causal, row: Sequence[int], counts: Sequence[bool]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As ``Paged.look``, by the model as it was trained."""
    import torch

    places = [i for i, counted in enumerate(counts) if counted and i]
    with torch.inference_mode():
        states = network.states([row])[[i - 1 for i in places]]
        logits = network.encoder.get_output_embeddings()(states).float()
        right = torch.tensor([row[i] for i in places], device=logits.device)
        lost = torch.nn.functional.cross_entropy(logits, right, reduction="none")
    return logits.argmax(1).cpu().numpy(), lost.cpu().double().numpy()


def _place(
    network: Causal, row: Sequence[int], counts: Sequence[bool], at: int, looks: Sequence[Any]
) -> dict[str, Any]:
    """One token of a right answer, what stands before it, and what each model says there."""
    spot = [i for i, counted in enumerate(counts) if counted and i][at]

    def spell(ids: Sequence[int]) -> str:
        return str(network.tokenizer.decode(list(ids), skip_special_tokens=False))

    told: dict[str, Any] = {"near": spell(row[max(0, spot - 16) : spot]), "right": spell([row[spot]])}
    for name, (best, lost) in zip(("before", "after"), looks, strict=True):
        told |= {name: {"token": spell([int(best[at])]), "logprob_of_right": -float(lost[at])}}
    return told
