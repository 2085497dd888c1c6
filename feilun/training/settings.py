"""What every kind of training has to be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from feilun.pipeline.steps import Settings


class FitSettings(Settings):
    """Settings of the loop; the stages that train add their own."""

    epochs: int = Field(default=1, ge=1, le=1000, description="How often each example is seen")
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, description="The highest rate, reached after the warm-up")
    schedule: Literal["linear", "cosine", "wsd", "constant"] = Field(
        default="linear",
        description="How the rate falls after the warm-up: straight to 0, along a cosine, only at the end, not at all",
    )
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises")
    decay: float = Field(default=0.2, gt=0, le=1, description="Share of the steps in which the rate falls under wsd")
    batch_tokens: int = Field(default=1024, ge=1, description="Tokens in a batch, padding included")
    batch_rows: int = Field(default=0, ge=0, description="Examples in a batch, however long; 0 counts tokens instead")
    accumulation: int = Field(default=1, ge=1, description="Batches whose gradients are added up to one step")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's, on matrices only")
    clip: float = Field(default=1.0, gt=0, description="The longest gradient; a longer one is shortened to this")
    freeze_embeddings: bool = Field(
        default=True, description="Keep the token embeddings as they are: faster, forgets less"
    )
    freeze_layers: int = Field(default=0, ge=0, description="Keep this many of the lowest layers as they are as well")
    unfreeze: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the steps in which layers thaw one after the other, the highest first; 0: all at once",
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="The model is a moving average of the weights that remembers this much"
    )
    average_last: float = Field(
        default=0.0, ge=0, le=1, description="The model is the mean of the weights of this last share of the steps"
    )
    held_out: float = Field(
        default=0.0, ge=0, le=0.5, description="Share of the training rows that is not learned from but watched"
    )
    watch: Literal["loss", "figure"] = Field(
        default="loss", description="What is watched on the held-out rows: the loss, or the first figure of the task"
    )
    watch_steps: int = Field(
        default=0, ge=0, description="Steps between two looks at the held-out rows; 0: after each epoch"
    )
    patience: int = Field(
        default=0, ge=0, description="Stop after so many looks without a new best; 0: never. The best weights are kept"
    )
    seed: int = Field(default=0, ge=0, description="Decides the order of the examples and what starts at random")
    checkpoint_steps: int = Field(default=100, ge=1, description="Steps between two checkpoints")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA where there is a card")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Of the products; auto: bf16 where the processor multiplies it (feilun doctor)"
    )
    shard: bool = Field(
        default=False, description="Of several processes each holds a part of the weights (FSDP2), not all (DDP)"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> FitSettings:
        if self.ema and self.average_last:
            raise ValueError("ema and average_last are two ways to average: use one of them")
        if self.patience and not self.held_out:
            raise ValueError("patience needs something to watch: set held_out, for example to 0.1")
        return self
