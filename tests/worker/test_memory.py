"""What runs suspects runs out of memory before all in its control group are ended together, and only there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.memory import left

MB = 2**20


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.write_text("1:name=systemd:/elsewhere\n0::/pods/worker\n")
    return path


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A pod of 512 MB, in which one container may take 400 MB, and has taken 300, 50 of them of files."""
    worker = tmp_path / "groups" / "pods" / "worker"
    worker.mkdir(parents=True)
    for group, most, taken in ((worker, 400, 300), (worker.parent, 512, 310)):
        (group / "memory.max").write_text(f"{most * MB}\n")
        (group / "memory.current").write_text(f"{taken * MB}\n")
        (group / "memory.stat").write_text(f"anon {(taken - 50) * MB}\ninactive_file {50 * MB}\n")
        (group / "memory.oom.group").write_text("0\n")
    return tmp_path / "groups"


@pytest.mark.parametrize("group", ["pods", "pods/worker"])
def test_what_is_left_where_all_end_together_is_what_the_narrowest_group_has(
    groups: Path, mine: Path, group: str
) -> None:
    (groups / group / "memory.oom.group").write_text("1\n")
    assert left(groups, mine) == 150 * MB
    (groups / "pods/worker/memory.max").write_text("max\n")
    assert left(groups, mine) == 252 * MB


def test_where_processes_end_one_by_one_or_nothing_limits_them_none_is_limited(
    groups: Path, mine: Path, tmp_path: Path
) -> None:
    assert left(groups, mine) is None
    (groups / "pods/worker/memory.oom.group").write_text("1\n")
    for group in ("pods", "pods/worker"):
        (groups / group / "memory.max").write_text("max\n")
    assert left(groups, mine) is None
    mine.write_text("4:memory:/pods/worker\n")
    assert left(groups, mine) is None
    assert left(groups, tmp_path / "none") is None


GREEDY = """
import sys
from pathlib import Path
from worker import memory
memory.stay_within_group(Path(sys.argv[1]), Path(sys.argv[2]))
held = [bytearray(2**20) for _ in range(90)]
print("had 90 MB", flush=True)
try:
    held += [bytearray(2**20) for _ in range(100)]
except MemoryError:
    print("and no more")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_who_takes_more_runs_out_of_memory_first(groups: Path, mine: Path) -> None:
    (groups / "pods/worker/memory.oom.group").write_text("1\n")
    done = subprocess.run(
        [sys.executable, "-c", GREEDY, str(groups), str(mine)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "had 90 MB\nand no more\n", done.stderr
