"""Who else of this machine may read or change what only its owner should: the state folder and the configuration.

It changes no permission; `truckllm doctor` says how to, `run` and `worker` say that it should be done.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def exposed(config: Path | None, home: Path) -> list[tuple[str, str]]:
    """What others may change: a sentence each, and the command that mends it. Files that aren't there are none."""
    found = []
    for path, why in (
        (config, "they could send your keys and prompts elsewhere"),
        (home, "they could change your jobs"),
    ):
        try:
            about = path.stat() if path is not None else None
        except OSError:
            continue
        if about is None:
            continue
        if about.st_mode & _OTHERS_WRITE:
            found.append((f"others can change {path}: {why}", f"chmod go-w {path}"))
        elif stranger(about):
            found.append((f"{path} belongs to another user ({about.st_uid}): {why}", f"chown {os.getuid()} {path}"))
    return found


def stranger(about: os.stat_result) -> bool:
    """Whether something belongs to neither this user nor root."""
    return about.st_uid not in (os.getuid(), 0)
