"""How much memory a process may still take where its end for want of it would be everybody's: in a control group that Linux ends as a
whole, as Kubernetes has them. It limits only who asks for it (`worker.warden`).
"""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MINE = Path("/proc/self/cgroup")
STATUS = Path("/proc/self/status")

SHARE = 0.75
"""Of what is left; the rest is for those beside it."""


def stay_within_group(groups: Path = GROUPS, mine: Path = MINE) -> None:
    """Has this process run out of memory before its control group does, if all in that one would end together: then nobody is left to
    tell which row it was. Elsewhere it does nothing."""
    with contextlib.suppress(OSError, ValueError):
        if (room := left(groups, mine)) is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (_taken() + int(room * SHARE), hard))


def left(groups: Path = GROUPS, mine: Path = MINE) -> int | None:
    """Bytes until the system ends all processes of this one's group at once; None where it doesn't. Raises OSError, ValueError."""
    if not mine.exists():
        return None
    path = next((line[3:] for line in mine.read_text().splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    folder = groups / path.strip("/")
    rooms, together = [], False
    for group in [folder, *folder.parents]:
        together |= _read(group / "memory.oom.group") == "1"
        most = _read(group / "memory.max")
        if most is not None and most != "max":
            taken = int(_read(group / "memory.current") or 0)
            rooms.append(max(0, int(most) - taken + _reclaimable(group)))
        if group == groups:
            break
    return min(rooms) if together and rooms else None


def _reclaimable(group: Path) -> int:
    """Bytes of files that are only kept in memory while there is room."""
    words = [line.split() for line in (_read(group / "memory.stat") or "").splitlines()]
    return next((int(word[1]) for word in words if word[0] == "inactive_file"), 0)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _taken() -> int:
    """Bytes of this process that count against the limit."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024
