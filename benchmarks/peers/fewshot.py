"""Few-shot classification by SetFit.

Told: ``model`` (a folder of MiniLM), ``train`` and ``test`` (lists of [text, number of the label]), and optionally
``options`` (of its TrainingArguments; as it comes without them) and ``seed`` (0).
Answers: ``seconds`` of ``Trainer.train`` (pairs, contrast, head; not loading the model), ``steps``, ``accuracy``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import setfit
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, models


def main(told: dict[str, Any]) -> dict[str, Any]:
    """Load, train, ask."""
    transformers.set_seed(told.get("seed", 0))
    words = models.Transformer(told["model"], max_seq_length=128)
    pooling = models.Pooling(words.get_embedding_dimension(), pooling_mode="mean")
    body = SentenceTransformer(modules=[words, pooling, models.Normalize()])  # what all-MiniLM-L6-v2 is published as
    from sklearn.linear_model import LogisticRegression

    model = setfit.SetFitModel(model_body=body, model_head=LogisticRegression())
    options = setfit.TrainingArguments(
        output_dir="out",
        seed=told.get("seed", 0),
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        show_progress_bar=False,
        **told.get("options", {}),
    )
    rows = Dataset.from_dict({"text": [t for t, _ in told["train"]], "label": [y for _, y in told["train"]]})
    trainer = setfit.Trainer(model=model, args=options, train_dataset=rows)
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    answers = np.asarray(model.predict([t for t, _ in told["test"]], use_labels=False))
    right = float((answers == np.array([y for _, y in told["test"]])).mean()) if told["test"] else float("nan")
    return {"seconds": seconds, "steps": trainer.st_trainer.state.global_step, "accuracy": right}


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    print(json.dumps(main(json.load(sys.stdin))))
