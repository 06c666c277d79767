"""Whether the workers of a run still report, and if not, whether the disk is why: a worker that can't write can't say so either.

It looks at heartbeats that it is given and at the disk; it judges no worker and ends nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from models.processes import last_words
from submit.disk import disk_trouble

LATE_SECONDS = 8.0
"""Heartbeats come every 5 s: after so long without one the disk is tried."""

SILENT_SECONDS = 20.0
"""After so long without any heartbeat it is said, also where the disk looks well."""

_TAIL_BYTES = 16384


class Pulse:
    """Of the workers that serve one run. `folder` is the database's, None where it is on a server; `log` is the workers' own."""

    def __init__(self, folder: Path | None, log: Path | None) -> None:
        self._folder = folder
        self._log = log
        self._beats: Mapping[int, int] = {}
        self._changed = self._looked = time.monotonic()

    def look(self, beats: Mapping[int, int], waiting: int, clock: float) -> str | None:
        """What is wrong, in a sentence; None while all is well. Call it about once a second.

        `beats` are the heartbeats so far by worker, `waiting` the jobs whose results may wait to be stored, `clock` is monotonic
        seconds.
        """
        if clock - self._looked > LATE_SECONDS / 2:  # it was us who stood still
            self._changed += clock - self._looked
        self._looked = clock
        if beats != self._beats:
            self._beats, self._changed = dict(beats), clock
        silent = clock - self._changed
        if silent < LATE_SECONDS:
            return None
        why = None if self._folder is None else disk_trouble(self._folder)
        if why is not None:
            return f"{why}; no new call starts, and up to {waiting:,} results wait to be stored. It goes on once there is room"
        if silent < SILENT_SECONDS:
            return None
        last = self._last_line()
        return f"no worker has reported for {silent:.0f} s" + (f": see {self._log}" if self._log else "") + last

    def _last_line(self) -> str:
        if self._log is None:
            return ""
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                last = last_words(file.read().decode(errors="replace").splitlines())
        except OSError:
            return ""
        return f" (last line: {last})" if last else ""
