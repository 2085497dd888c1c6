"""One trainer at a time on one scratch folder (RELIABILITY 49).

Two guards. A lock of the kernel turns the second trainer on a machine away at once, and is gone with its process. Where
locks do not reach (a network file system, a trainer that was given up for dead and wakes again, a folder removed under
it), each trainer takes a number, higher than all before: whoever finds a higher one stops, before it writes a
checkpoint over that of its successor.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from feilun.errors import ConflictError

FILE = "trainer"


class Fence:
    """The right to write in ``scratch``, until ``close`` or the end of the process.

    Raises:
        ConflictError: another trainer of this machine is at work there.
    """

    def __init__(self, scratch: Path) -> None:
        self.place = scratch / FILE
        self.file = self.place.open("ab")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            hint = "wait for it, then run again"
            raise ConflictError("another trainer is at work on this job", where=str(scratch), hint=hint) from error
        self.file.write(b".")  # the number is how many took one: nothing that half a write could spoil
        self.file.flush()
        os.fsync(self.file.fileno())
        self.number = os.fstat(self.file.fileno()).st_size

    def check(self) -> None:
        """Stop where another trainer has taken over; to be asked before each write.

        Raises:
            ConflictError: there is a higher number, or another folder in the place of this one.
        """
        own = os.fstat(self.file.fileno())
        try:
            there = self.place.stat()
        except FileNotFoundError:
            there = None
        if there is None or there.st_ino != own.st_ino or there.st_size != self.number:
            raise ConflictError(
                "another trainer has taken over this job",
                where=str(self.place.parent),
                hint="it goes on from the last checkpoint; this one has written nothing since",
            )

    def close(self) -> None:
        """Let the next trainer in."""
        self.file.close()
