"""The preloaded library (``shim.c``): compiled on the spot, steered through two files."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path


class Shim:
    """A clock and a disk that can be told what to do. ``environment`` goes to the process that shall believe it."""

    def __init__(self, folder: Path) -> None:
        self._library = compile_into(folder)
        self._clock = folder / "clock"
        self._fsync = folder / "fsync-fails"
        self.shift_clock(0)
        folder.chmod(0o777)  # PostgreSQL runs as another user, and removes the trigger
        self.environment = {
            "LD_PRELOAD": str(self._library),
            "FAULTS_CLOCK": str(self._clock),
            "FAULTS_FSYNC": str(self._fsync),
        }

    def shift_clock(self, microseconds: int) -> None:
        """From now on the time of day is that much later."""
        with self._clock.open("r+b" if self._clock.exists() else "wb") as file:  # in place: it is mapped
            file.write(struct.pack("=q", microseconds))

    def fail_fsync(self, piece: str) -> None:
        """The next fsync of a file whose path has ``piece`` fails with EIO."""
        aside = self._fsync.with_suffix(".new")
        aside.write_text(piece)
        aside.rename(self._fsync)

    @property
    def failed(self) -> bool:
        """Whether the fsync that was to fail has done so."""
        return not self._fsync.exists()


def compiler() -> str | None:
    """A C compiler, where there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def compile_into(folder: Path) -> Path:
    """The library, made from ``shim.c``."""
    library = folder / "shim.so"
    chosen = compiler()
    if chosen is None:
        raise FileNotFoundError("there is no C compiler")
    source = Path(__file__).with_name("shim.c")
    subprocess.run([chosen, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    library.chmod(0o755)
    return library
