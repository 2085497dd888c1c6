"""What every kind of training has to be told."""

from __future__ import annotations

from pydantic import Field

from feilun.pipeline.steps import Settings


class FitSettings(Settings):
    """Settings of the loop; the stages that train add their own."""

    epochs: int = Field(default=1, ge=1, le=1000, description="How often each example is seen")
    learning_rate: float = Field(default=2e-4, gt=0, lt=1, description="The highest rate, reached after the warm-up")
    warmup: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises; then it falls to 0"
    )
    batch_tokens: int = Field(default=1024, ge=1, description="Tokens in a batch, padding included")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's, on matrices only")
    clip: float = Field(default=1.0, gt=0, description="The longest gradient; a longer one is shortened to this")
    freeze_embeddings: bool = Field(
        default=True, description="Keep the token embeddings as they are: faster, forgets less"
    )
    freeze_layers: int = Field(default=0, ge=0, description="Keep this many of the lowest layers as they are as well")
    seed: int = Field(default=0, ge=0, description="Decides the order of the examples and what starts at random")
    checkpoint_steps: int = Field(default=100, ge=1, description="Steps between two checkpoints")
