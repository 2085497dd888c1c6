"""From a PyTorch network to OpenVINO's format, and from 32 bits to 8."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feilun.models import tokens
from feilun.models.network import Network, quiet


class _Scores(nn.Module):
    """What is exported: with the softmax, so that the engine answers with scores."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.network.scores(ids, mask)


def export(network: Network) -> Any:
    """An OpenVINO model: ids and mask (N, L), int64, to float32 scores (N, C) or (N, L, C); N and L are free."""
    return convert(_Scores(network))


def convert(module: nn.Module) -> Any:
    """A module of ids and mask (N, L), int64, as an OpenVINO model; N and L are free."""
    with _quiet():
        import openvino

        ids = torch.tensor([[1, 2, 3], [1, 2, 0]])
        free = openvino.PartialShape([-1, -1])
        example = (ids, (ids > 0).long())
        return openvino.convert_model(module, example_input=example, input=[free, free])


def to_int8(model: Any) -> Any:
    """Weights in 8 bits; the engine rounds activations row by row, so nothing has to be calibrated."""
    with _quiet():
        import nncf

        nncf.set_log_level(logging.ERROR)
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def to_int4(model: Any, group: int) -> Any:
    """Weights of layers in 4 bits, ``group`` in a row with one scale; embeddings and head in 8."""
    with _quiet():
        import nncf

        nncf.set_log_level(logging.ERROR)
        smaller = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        return nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=group,
            ratio=1.0,
            advanced_parameters=smaller,  # where a row has no whole number of groups
        )


def to_static_int8(model: Any, rows: tokens.Rows) -> Any:
    """Weights and activations in 8 bits; ``rows`` of ids show how far the activations range (SmoothQuant, NNCF)."""
    with _quiet():
        import nncf

        nncf.set_log_level(logging.ERROR)
        samples = [list(tokens.pad([row], len(row))) for row in rows]
        return nncf.quantize(
            model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
        )


def save(model: Any, folder: Path, names: Mapping[str, str] | None = None) -> None:
    """Write model.xml and model.bin; what is float32 stays float32, and the same model is the same bytes.

    Args:
        names: what operations are to be called from now on, by their names now; the others are numbered.
    """
    import openvino

    model.set_friendly_name("classifier")
    for number, operation in enumerate(model.get_ordered_ops()):  # its own names count all that the process ever made
        kept = (names or {}).get(operation.get_friendly_name())
        operation.set_friendly_name(kept or f"{operation.get_type_name()}_{number}")
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of Python branches and of its own retirement; NNCF draws bars on rich's shared console."""
    import rich

    console = rich.get_console()
    was = console.quiet
    console.quiet = True
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        console.quiet = was
