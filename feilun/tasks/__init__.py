"""One file a task: how examples become tensors, the loss, and how scores become answers."""

from __future__ import annotations

from types import ModuleType

from feilun.errors import SettingError, did_you_mean

NAMES = ("classify",)


def get(name: str) -> ModuleType:
    """The task of that name.

    Raises:
        SettingError: there is none.

    >>> get("clasify")
    Traceback (most recent call last):
    feilun.errors.SettingError: error[unknown-task]: there is no task 'clasify'
      hint  did you mean 'classify'?
    """
    if name not in NAMES:
        hint = did_you_mean(name, NAMES) or f"there is {', '.join(NAMES)}"
        raise SettingError(f"there is no task '{name}'", hint=hint, code="unknown-task")
    from feilun.tasks import classify

    return classify
