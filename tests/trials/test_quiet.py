"""A search shares its process with what logs."""

from __future__ import annotations

import logging
from pathlib import Path

import optuna

from feilun.trials.quiet import loggers_kept


def test_a_studys_storage_silences_nobody(tmp_path: Path) -> None:
    log = logging.getLogger("feilun.example")
    handlers = list(logging.getLogger().handlers)
    with loggers_kept():
        optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="one")
        assert log.disabled
    assert not log.disabled
    assert logging.getLogger().handlers == handlers
