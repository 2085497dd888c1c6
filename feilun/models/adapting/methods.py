"""One way into every method: a model, which method, and its options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
from torch import nn

from feilun.errors import ArtifactError, SettingError
from feilun.models import building
from feilun.models.adapting import adapted, bottleneck, low_rank, prompts
from feilun.models.adapting.adapted import Adapted
from feilun.models.adapting.options import Method, MethodOptions

OUTSIDE = {  # what an adapter's configuration may ask for beside its weights, and is not done here
    "modules_to_save": "brings whole modules",
    "layer_replication": "repeats the model's layers",
    "megatron_config": "names code to be run",
}
ENCODER, CAUSAL = "FEATURE_EXTRACTION", "CAUSAL_LM"  # peft's names of what a model does


def adapt(
    model: Any,
    layers: nn.ModuleList,
    method: Method,
    options: MethodOptions,
    *,
    seed: int = 0,
    task_type: str = ENCODER,
) -> Adapted | None:
    """Freeze what a method does not train, in place, and put in what it trains.

    Args:
        model: an encoder or a causal model of transformers; a head outside of it is not touched.
        layers: the model's layers.
        seed: decides what starts at random.
        task_type: ``ENCODER`` or ``CAUSAL``.

    Returns:
        What was put in; None where the method trains weights of the model, or none of it.

    Raises:
        SettingError: the options do not fit the model.
    """
    match method:
        case "lora":
            return low_rank.put(model, layers, options, seed, task_type)
        case "adapter":
            return bottleneck.put(model, layers, options, seed)
        case "prefix" | "prompt":
            return prompts.put(model, method, options, seed, task_type)
        case "head":
            model.requires_grad_(False)
        case "bitfit":  # only the biases (Ben Zaken et al. 2021, arXiv 2106.10199)
            biases = [p for name, p in model.named_parameters() if name.rpartition(".")[2] == "bias"]
            if not biases:
                raise SettingError("bitfit trains biases, and this model has none", where="method", hint='try "lora"')
            model.requires_grad_(False)
            for bias in biases:
                bias.requires_grad_(True)
    return None


def go_on(model: nn.Module, put: Adapted, method: Method) -> None:
    """Freeze and unfreeze for more training of a model that holds something already.

    Raises:
        SettingError: the method is neither the one before, nor one that puts nothing in.
    """
    if method not in (put.method, "full", "head"):
        raise SettingError(
            f"the base was adapted with '{put.method}', which cannot be merged",
            where="method",
            hint=f"go on with method = '{put.method}', 'full' or 'head'",
        )
    model.requires_grad_(method == "full")
    for parameter in put.parameters():
        parameter.requires_grad_(method != "head")


def attach(model: Any, layers: nn.ModuleList, folder: Path, *, task_type: str = ENCODER) -> Adapted | None:
    """Put what ``adapted.write`` or peft wrote into the model that it was made for.

    Returns:
        What was put in; None where it was merged into the model's weights.

    Raises:
        ArtifactError: the files are damaged, of a type that is not known here, or for another model.
    """
    configuration, tensors = adapted.read(folder)
    kind = str(configuration.get("peft_type"))
    if kind == bottleneck.TYPE:
        return _attach_bottleneck(model, layers, folder)
    if kind != "LORA" and kind not in prompts.TYPES:
        known = ", ".join(["LORA", *prompts.TYPES, bottleneck.TYPE])
        raise ArtifactError(f"adapters of type '{kind}' are not known", where=str(folder), hint=f"known are {known}")
    for name, what in OUTSIDE.items():
        if configuration.get(name):
            hint = "merge it with peft first, and use what that saves"
            raise ArtifactError(f"the adapter {what}: {str(configuration[name])[:100]}", where=str(folder), hint=hint)
    if not (low_rank.is_backed if kind == "LORA" else prompts.is_backed)(configuration, tensors):
        raise ArtifactError(
            "the adapter's configuration is not that of its weights", where=str(folder / adapted.CONFIG)
        )
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode, config.task_type, config.base_model_name_or_path = True, task_type, None
        if kind == "LORA":
            config.init_lora_weights = True  # others read files, or change the model
        with low_rank.quiet():
            wrapped = peft.get_peft_model(model, config)
            found = peft.set_peft_model_state_dict(wrapped, tensors)
    except building.UNBUILDABLE as error:
        raise ArtifactError("the adapter does not fit", where=str(folder), hint=str(error)[-200:]) from error
    if kind == "LORA":
        wrong = [name for name in found.missing_keys if ".lora_" in name] + found.unexpected_keys
    else:
        wrong = sorted(tensors.keys() ^ {"prompt_embeddings"})  # peft itself reports this name as unexpected
    if wrong:
        names = ", ".join(wrong[:3])
        raise ArtifactError(f"the adapter is for another model: {names}", where=str(folder))
    if kind == "LORA":
        wrapped.merge_and_unload(safe_merge=True)
        return None
    wrapped.prompt_encoder.requires_grad_(True)
    return prompts.Prompts(wrapped)


@contextlib.contextmanager
def apart(put: Adapted | None) -> Iterator[None]:
    """Inside, the model's weights have the names that they had before; LoRA is merged into them for good."""
    if put is None:
        yield
        return
    put.fold()
    put.set_aside(True)
    try:
        yield
    finally:
        put.set_aside(False)


def _attach_bottleneck(model: nn.Module, layers: nn.ModuleList, folder: Path) -> Adapted:
    configuration, tensors = adapted.read(folder)
    try:
        targets, size = [str(t) for t in configuration["target_modules"]], configuration["size"]
    except (KeyError, TypeError) as error:
        raise ArtifactError("the adapter's configuration cannot be read", where=str(folder)) from error
    if not any(name.endswith(".down.weight") and list(t.shape[:1]) == [size] for name, t in tensors.items()):
        raise ArtifactError(
            "the adapter's configuration is not that of its weights", where=str(folder / adapted.CONFIG)
        )
    made = bottleneck.Bottlenecks(model, adapted.match(model, layers, targets), targets, size)
    wrong = made.fill(tensors)
    if wrong:
        raise ArtifactError(f"the adapter is for another model: {', '.join(wrong[:3])}", where=str(folder))
    return made
