"""What a project file may say of a method of fine-tuning, beside which one it is; without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from feilun.pipeline.steps import Settings

Method = Literal["full", "head", "bitfit", "lora", "adapter", "prefix", "prompt", "few-shot"]


class MethodOptions(Settings):
    """Settings of all methods; ``finetune`` refuses one that its method does not use."""

    rank: int = Field(default=8, ge=1, le=1024, description="LoRA: how many directions each matrix may change in")
    alpha: int = Field(default=16, ge=1, description="LoRA: its change is multiplied by alpha / rank")
    targets: tuple[str, ...] = Field(
        default=(),
        description="LoRA, adapter: the layers' modules that get one, by the end of their names; none named: LoRA's "
        "are all linear ones, the adapter's the last of each block",
    )
    rslora: bool = Field(default=False, description="LoRA: multiply by alpha / sqrt(rank), for high ranks")
    dora: bool = Field(default=False, description="LoRA: train the length of each row of a matrix apart from the rest")
    init: Literal["zero", "gaussian", "orthogonal", "pissa", "olora"] = Field(
        default="zero",
        description="LoRA: how it starts; pissa and olora start in the matrix's own strongest directions",
    )
    bottleneck: int = Field(default=32, ge=1, le=4096, description="adapter: how narrow it is in its middle")
    virtual_tokens: int = Field(default=16, ge=1, le=512, description="prefix, prompt: how many tokens are learned")
    draws: int = Field(default=8, ge=1, le=10_000, description="few-shot: how often an epoch compares each text")


USED_BY: dict[str, tuple[Method, ...]] = {
    # option -> the methods that read it
    "rank": ("lora",),
    "alpha": ("lora",),
    "targets": ("lora", "adapter"),
    "rslora": ("lora",),
    "dora": ("lora",),
    "init": ("lora",),
    "bottleneck": ("adapter",),
    "virtual_tokens": ("prefix", "prompt"),
    "draws": ("few-shot",),
}
