"""A build backend (PEP 517) that answers pip from PKG-INFO, so that downloading a source archive runs nothing in it.

``pip download`` asks the backend of a source archive for its metadata, and would run the archive's setup.py for that.
``packages`` copies this file to ``setuptools/build_meta.py`` on the path of that one pip process: it imports nothing
but the standard library.
"""

from __future__ import annotations

import email
import re
from pathlib import Path


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: object = None) -> str:
    """Write ``<name>-<version>.dist-info/METADATA`` and return that folder's name."""
    info = Path("PKG-INFO").read_bytes()
    fields = email.message_from_bytes(info)
    folder = re.sub(r"[^A-Za-z0-9._-]", "_", f"{fields['Name']}-{fields['Version']}") + ".dist-info"
    (Path(metadata_directory) / folder).mkdir()
    (Path(metadata_directory) / folder / "METADATA").write_bytes(info)
    return folder


def get_requires_for_build_wheel(config_settings: object = None) -> list[str]:
    """Nothing: nothing is built."""
    return []


class _Legacy:
    """What pip uses for an archive without pyproject.toml: ``setuptools.build_meta:__legacy__``."""

    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)


__legacy__ = _Legacy()
