"""Whether there is room, and leave, to write: in the state folder while a run goes on, and where its results are to go.

It keeps nothing: what it writes to find out is gone when it returns.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from models.errors import UsageError

LEAST_FREE_BYTES = 1024 * 1024
_TRIED_BYTES = 256 * 1024


def disk_trouble(folder: Path) -> str | None:
    """Why nothing can be written in the folder; None if something can."""
    tried = folder / f".space-{os.getpid()}"
    try:
        free = shutil.disk_usage(folder).free
        if free < LEAST_FREE_BYTES:
            return f"disk full: {folder} has {free // 1024:,} KB left"
        with open(os.open(tried, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{folder} can't be written: {error.strerror or error}"
    finally:
        with contextlib.suppress(OSError):
            tried.unlink(missing_ok=True)
    return None


def check_target(target: Path, source: str) -> None:
    """Raises UsageError when the results of `source` ("-" is stdin) could not be written there: that is better known before anything is
    paid."""
    folder = Path(os.path.realpath(target)).parent
    if str(target).startswith("/dev/"):
        return
    if source != "-" and os.path.realpath(target) == os.path.realpath(source):
        raise UsageError(f"{target} is the batch's input: write the results to another file")
    if target.is_dir():
        raise UsageError(f"results can't go to {target}: it is a folder; name a file in it with -o")
    if not folder.is_dir():
        raise UsageError(f"results can't go to {target}: there is no folder {folder}; make it, or name another with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"results can't go to {target}: {folder} can't be written by you; name another file with -o")
