"""Methods on a causal model, whose rows are trained without padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from feilun.errors import SettingError
from feilun.models import causal, network
from feilun.models.adapting import low_rank
from feilun.models.adapting.options import MethodOptions
from tests.models import tiny

ROWS = [[2, 5, 6, 7, 3], [2, 8, 3]]
COUNTS = [[True] * len(row) for row in ROWS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_base(tmp_path_factory.mktemp("base"))  # for its tokenizer
    config = transformers.LlamaConfig(
        vocab_size=len(tiny.WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=3, tie_word_embeddings=True,
    )  # fmt: skip
    with network.quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def adapted(base: Path, method: Any, **options: Any) -> causal.Causal:
    """With what was put in far from where it starts."""
    made = causal.load(base, tiny.CONTEXT)
    made.adapt(method, MethodOptions(**options), seed=0)
    random = torch.Generator().manual_seed(1)
    assert made.adapted is not None
    for parameter in made.adapted.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    return made


@pytest.mark.parametrize(
    ("method", "options"),
    [("lora", {}), ("lora", {"dora": True}), ("lora", {"init": "pissa", "rank": 4}), ("adapter", {"bottleneck": 4})],
    ids=["lora", "dora", "pissa", "adapter"],
)
def test_a_causal_model_answers_the_same_after_it_was_saved_and_so_it_does_in_peft(
    base: Path, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    made = adapted(base, method, **options)
    with torch.no_grad():
        before = made.surprise(ROWS, COUNTS)[0]
    causal.save(made, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(causal.load(tmp_path).surprise(ROWS, COUNTS)[0], before, rtol=1e-4, atol=1e-5)
    if method == "adapter":
        return
    with network.quiet(), low_rank.quiet(), torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        theirs = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
        ids = torch.tensor(ROWS[:1])
        chances = theirs(input_ids=ids).logits.log_softmax(-1)
    found = -chances[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(found, before[: len(found)], rtol=1e-4, atol=1e-5)


def test_learned_tokens_are_refused_for_a_model_that_writes(base: Path) -> None:
    with pytest.raises(SettingError, match="cannot be trained with 'prompt'"):
        causal.load(base, tiny.CONTEXT).adapt("prompt", MethodOptions(), seed=0)
