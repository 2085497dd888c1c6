"""A network whose encoder can hold what a method of fine-tuning puts into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from feilun.errors import ArtifactError, SettingError
from feilun.models.adapting import adapted, methods
from feilun.models.adapting.options import Method, MethodOptions


class Adaptable(nn.Module):
    """What a network of an ``encoder``, a transformers model, is made of where methods are to apply to it."""

    task_type = methods.ENCODER
    without: tuple[Method, ...] = ()  # methods that such a network cannot be trained with

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.adapted: adapted.Adapted | None = None
        self.outside: nn.Module | None = None  # what of it is no module of the encoder

    @property
    def layers(self) -> nn.ModuleList:
        """The encoder's layers, lowest first.

        Raises:
            ArtifactError: it has no such list, as where all layers share their weights (ALBERT).
        """
        depth = getattr(self.encoder.config, "num_hidden_layers", None)
        for module in self.encoder.modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                return module
        raise _cannot(self.encoder, "its layers are not one list of modules")

    @property
    def positions(self) -> int:
        """The most tokens of a text that the encoder can read.

        Raises:
            ArtifactError: see ``positions``.
        """
        return positions(self.encoder) - (self.adapted.tokens if self.adapted else 0)

    def adapt(self, method: Method, options: MethodOptions, seed: int) -> None:
        """Freeze what the method does not train of the encoder, and put in what it trains.

        Raises:
            SettingError: the options do not fit the encoder, or it was adapted by another method before.
        """
        if method in self.without:
            raise SettingError(f"such a model cannot be trained with '{method}'", where="method", hint='try "lora"')
        if self.adapted is None:
            put = methods.adapt(self.encoder, self.layers, method, options, seed=seed, task_type=self.task_type)
            self._hold(put)
        else:
            methods.go_on(self.encoder, self.adapted, method)

    def special_states(self, ids: Tensor, mask: Tensor) -> Tensor | None:
        """The states (N, L, H) where what was put in calls the encoder in a way of its own; None: call it as ever."""
        return self.adapted.states(ids, mask) if self.adapted else None

    def restore(self, folder: Path) -> None:
        """Put in what lies in a model folder's ``adapter/``, ours or peft's, unless the weights hold it already.

        Raises:
            ArtifactError: see ``methods.attach``.
        """
        beside, told = folder / adapted.FOLDER, getattr(self.encoder.config, "feilun", {}).get("adapter")
        if told == "beside" and not beside.is_dir():
            hint = "copy it whole: without that the model would answer otherwise than it was trained to"
            raise ArtifactError("the model's adapter is missing", where=str(beside), hint=hint)
        if beside.is_dir() and told != "merged":
            self._hold(methods.attach(self.encoder, self.layers, beside, task_type=self.task_type))

    @contextlib.contextmanager
    def plain(self, folder: Path) -> Iterator[None]:
        """Inside, the encoder can be written to ``folder`` as the model that it was made from.

        What was put in goes into ``adapter/`` and, where that can be, is merged into the encoder for good.
        """
        if self.adapted is None:
            yield
            return
        self.encoder.config.feilun["adapter"] = "merged" if self.adapted.fold() else "beside"
        adapted.write(self.adapted, folder / adapted.FOLDER)
        with methods.apart(self.adapted):
            yield

    def _hold(self, put: adapted.Adapted | None) -> None:
        self.adapted, self.outside = put, put.outside if put else None


def positions(encoder: Any) -> int:
    """The most tokens that a transformers model can read.

    RoBERTa and its kin begin to count after the number of the padding, so that many of their rows are never used.

    Raises:
        ArtifactError: the configuration does not say it as a number, or the model is an encoder with a decoder.
    """
    told = getattr(encoder.config, "max_position_embeddings", None)
    if encoder.config.is_encoder_decoder:
        raise _cannot(encoder, "it is an encoder and a decoder")
    if not isinstance(told, int) or told < 1:
        raise _cannot(encoder, "it does not say how many tokens it can read")
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return told - module.padding_idx - 1
    return told


def _cannot(encoder: Any, why: str) -> ArtifactError:
    what = f"this kind of base ({encoder.config.model_type}) cannot be tuned: {why}"
    return ArtifactError(what, hint="use a base of the kind of BERT, RoBERTa, ModernBERT, Llama or Qwen")
