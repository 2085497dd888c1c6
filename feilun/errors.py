"""Every error a person can cause or mend, by who must act.

An error says three things: what is wrong, where, and what to try next. It is written at the raise site and caught
once in the command line and once in the HTTP application; both show the same ``code``. Anything that is not a
``FeilunError`` is our own bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class FeilunError(Exception):
    """What, where and hint of something that a person can mend.

    Args:
        what: one sentence, without a full stop at the end.
        where: a file and line, a row and column, a route; None when there is no one place.
        hint: what to try next; None when nothing sensible can be said.
        code: a stable kebab-case name; the class's own by default.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(
        self, what: str, *, where: str | None = None, hint: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.name = code or self.code

    def __str__(self) -> str:
        lines = [f"error[{self.name}]: {self.what}"]
        if self.where:
            lines.append(f"  at    {self.where}")
        if self.hint:
            lines.append(f"  hint  {self.hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | None]:
        """The same three lines for ``--json`` and for the HTTP body."""
        return {"code": self.name, "message": self.what, "where": self.where, "hint": self.hint}


class ProjectError(FeilunError):
    """The project file, or the place where it should be, has to be changed."""

    code = "project"
    exit_code = 2
    status = 422


class SettingError(FeilunError):
    """A value that was given (option, request field, environment variable) cannot be used."""

    code = "setting"
    exit_code = 2
    status = 422


class DataError(FeilunError):
    """The rows have to be changed; ``where`` names file, row and column."""

    code = "data"
    exit_code = 3
    status = 422


class ArtifactError(FeilunError):
    """A stored file is missing or is not what its digest says."""

    code = "artefact"
    exit_code = 4
    status = 500


class StepError(FeilunError):
    """A step could not do its work, or a gate refused its result."""

    code = "step"
    exit_code = 5
    status = 409


class MissingExtra(FeilunError):  # noqa: N818 - it names what is missing, as the hint does
    """Something has to be installed first; the hint is the command."""

    code = "missing-extra"
    exit_code = 6
    status = 501


class AccessError(FeilunError):
    """The caller may not do this, or what it names is not there for that caller."""

    code = "access"
    exit_code = 7
    status = 401

    def __init__(
        self,
        what: str,
        *,
        status: int = 401,
        where: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint, code=code)
        self.http_status = status


class QuotaError(FeilunError):
    """The tenant's own limit is reached; ``retry_after`` is in seconds, None where waiting does not help."""

    code = "quota"
    exit_code = 8
    status = 429

    def __init__(
        self,
        what: str,
        *,
        retry_after: int | None,
        where: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint, code=code)
        self.retry_after = retry_after


class ConflictError(FeilunError):
    """Somebody else changed it first, or it is already being done."""

    code = "conflict"
    exit_code = 9
    status = 409


class UnavailableError(FeilunError):
    """Our own limit or fault: try again after ``retry_after`` seconds."""

    code = "unavailable"
    exit_code = 10
    status = 503

    def __init__(
        self,
        what: str,
        *,
        retry_after: int = 1,
        where: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint, code=code)
        self.retry_after = retry_after


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint for a mistyped name, or None when nothing is close.

    >>> did_you_mean("rnak", ["rank", "alpha"])
    "did you mean 'rank'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else None
