"""A transformers model from a folder that anybody may have written: nothing is built that its weights do not back.

config.json decides how much is built, and a few bytes of it can ask for more than there is memory or time. So the
network may have no more parameters, and no more numbers in them, than the files of weights could fill.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from feilun.errors import ArtifactError
from feilun.models import tokens

ADAPTER = "adapter_config.json"  # at a folder's root transformers obeys it by itself, and then saves nothing else
COUNTS = 1 << 20  # more layers, labels or the like than this are in no network
# loading registers a parameter up to three times, and some are not in the files: a pooler, a tied head
TIMES, PARAMETERS, NUMBERS = 4, 1000, 1 << 26
# what transformers raises for a config.json that it cannot follow; each was seen
UNBUILDABLE = (
    OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError, IndexError, ArithmeticError,
    AssertionError, MemoryError, StrictDataclassError,
)  # fmt: skip


class _TooMuchError(Exception):
    """config.json asks for more than the weights have; its own kind, so that nobody on the way takes it for another."""


def build(auto: Any, folder: Path, weights: Mapping[str, Tensor], *, attention: str) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and what transformers found of its weights.

    Args:
        auto: ``transformers.AutoModel`` or another of its kind.
        weights: what the folder's files hold.
        attention: transformers' name of an implementation.

    Raises:
        ArtifactError: config.json cannot be followed, asks for more than the weights have, or says that they are
            quantised; or an adapter lies beside them.
    """
    _check(folder)
    try:
        with quiet(), _bounded(weights):
            model, found = auto.from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except _TooMuchError as error:
        raise ArtifactError(str(error), where=str(folder / "config.json"), hint="it is of another model") from error
    except UNBUILDABLE as error:
        raise ArtifactError("the network cannot be built", where=str(folder), hint=str(error)[-200:]) from error
    return model, found


def check_saved(folder: Path) -> None:
    """A model that was written is there whole; of processes that train together the first alone writes it.

    Raises:
        ArtifactError: its configuration or its weights are missing.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return
    if not (folder / "config.json").is_file() or not any(folder.glob("model*.safetensors")):
        raise ArtifactError("the model was saved without its configuration or its weights", where=str(folder))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No reports on stderr from transformers; what matters in them is checked here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _check(folder: Path) -> None:
    if (folder / ADAPTER).exists():
        raise ArtifactError(
            "an adapter lies beside the model's own weights",
            where=str(folder / ADAPTER),
            hint="move adapter_config.json and adapter_model.safetensors into a folder adapter/ there, to use it",
        )
    told = tokens.configuration(folder)
    if told.get("quantization_config"):
        hint = "use the same model's weights in float32, float16 or bfloat16"
        raise ArtifactError("quantised weights cannot be tuned", where=str(folder / "config.json"), hint=hint)
    for name, value in told.items():
        if isinstance(value, int) and value > COUNTS and ("layer" in name or "label" in name):
            what = f"config.json asks for {name} = {value}, which no network has"
            raise ArtifactError(what, where=str(folder / "config.json"))


@contextlib.contextmanager
def _bounded(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, this thread builds no more than the weights could fill: at once where it is too much, not at the end."""
    most = TIMES * len(weights) + PARAMETERS
    numbers = sum(tensor.numel() for tensor in weights.values())
    here, left = threading.get_ident(), [most, TIMES * numbers + NUMBERS]

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is None or threading.get_ident() != here:
            return
        left[0] -= 1
        left[1] -= parameter.numel()
        if min(left) < 0:
            raise _TooMuchError(
                f"config.json asks for more than the weights have: those are {len(weights)} tensors of {numbers} "
                "numbers together"
            )

    registered = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        registered.remove()
