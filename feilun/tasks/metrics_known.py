"""Which figures each task has, by name, before anything was measured; without torch."""

from __future__ import annotations

from feilun.tasks import MEANT

LABELS = (
    "macro_f1", "accuracy", "micro_f1", "macro_precision", "macro_recall", "mcc", "roc_auc", "pr_auc", "log_loss",
    "brier", "ece", "precision:LABEL", "recall:LABEL", "f1:LABEL",
)  # fmt: skip
NUMBERS = ("pearson", "spearman", "r2", "mae", "rmse")
FOUND = ("ndcg_at_10", "mrr_at_10", "hit_at_1")
BY_TASK: dict[str, tuple[str, ...]] = {
    # LABEL stands for any label; the first is the one that models are chosen by
    "classify": LABELS,
    "embed": (*FOUND, "recall_at_10"),
    "extract": ("token_f1", "exact_match", "knows_whether"),
    "generate": ("chrf", "bleu", "rouge_l", "token_f1", "exact_match", "perplexity", "left_out"),
    "multilabel": ("micro_f1", "macro_f1", "micro_precision", "micro_recall", "exact_match", "jaccard"),
    "pair": LABELS,
    "prefer": ("preferred", "preferred_whole", "margin", "left_out"),
    "rank": FOUND,
    "regress": NUMBERS,
    "similarity": NUMBERS,
    "tag": ("f1", "precision", "recall", "macro_f1", "f1[LABEL]", "exact_rows"),
}


def possible(task: str | None) -> list[str]:
    """The names of a task's figures; of every task where it is None.

    A task that may turn out to be another one, by the dataset's columns (``tasks.meant``), has the figures of both.
    """
    others = [other for (short, _), other in MEANT.items() if short == task]
    return list(dict.fromkeys(name for one in ([task, *others] if task else BY_TASK) for name in BY_TASK[one]))
