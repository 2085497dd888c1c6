"""What ships with the package, and projects that begin from it."""

from __future__ import annotations

import shutil
from pathlib import Path

from feilun.errors import ConflictError, SettingError, did_you_mean
from feilun.pipeline import project as projects
from feilun.store import deployment

PACKAGE = Path(__file__).parent


def shipped(folder: str) -> Path:
    """``recipes`` or ``examples``: inside the installed package, or beside it in a checkout."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def init_project(folder: Path, template: str) -> list[Path]:
    """Copy a template into ``folder`` and make its secret; returns the files.

    Raises:
        SettingError: there is no such template.
        ConflictError: the folder has a project already; nothing is touched.
    """
    known = {f.name: f for f in shipped("examples").iterdir() if (f / projects.FILE).is_file()}
    if template not in known:
        hint = did_you_mean(template, known) or f"templates: {', '.join(sorted(known))}"
        raise SettingError(f"there is no template '{template}'", where="--template", hint=hint)
    if (folder / projects.FILE).exists():
        raise ConflictError(f"there is a project in {folder} already", hint="choose another folder")
    shutil.copytree(known[template], folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(deployment.HOME))
    made = sorted(folder / f.relative_to(known[template]) for f in known[template].rglob("*") if f.is_file())
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text(f"{deployment.HOME}/\n", "utf-8")  # artefacts, and the secret
        made.append(ignored)
    return [*made, deployment.write_secrets(folder / deployment.HOME)]
