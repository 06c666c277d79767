"""When workers are silent, and whether the disk is why. Time is given, nothing waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import UsageError
from submit import disk
from submit.disk import check_target, disk_trouble
from submit.pulse import Pulse


def told(pulse: Pulse, seconds: int, beats: dict[int, int] | None = None) -> str | None:
    """What it says after so many seconds in which nothing but these heartbeats came."""
    last = None
    for second in range(seconds + 1):
        last = pulse.look(beats or {1: 5}, 20, 1e9 + second)
    return last


def test_workers_that_beat_are_well(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path / "gone", None)
    for second in range(60):
        assert pulse.look({1: second // 5}, 20, 1e9 + second) is None


def test_a_full_disk_is_told_within_ten_seconds_and_gone_with_the_next_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 1 << 62)
    pulse = Pulse(tmp_path, None)
    sentence = told(pulse, 10)
    assert sentence is not None
    assert sentence.startswith(f"disk full: {tmp_path} has ")
    assert "up to 20 results wait to be stored" in sentence
    assert pulse.look({1: 6}, 20, 1e9 + 11) is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert "can't be written: No such file" in (told(Pulse(tmp_path / "gone", None), 10) or "")


def test_silence_with_a_healthy_disk_is_told_after_twenty_seconds_with_the_logs_last_line(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_text("first\nheartbeat failed\n")
    assert told(Pulse(tmp_path, log), 15) is None
    assert told(Pulse(tmp_path, log), 21) == (
        f"no worker has reported for 21 s: see {log} (last line: heartbeat failed)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["worker.log"], "what was tried is gone"


def test_who_stood_still_itself_blames_no_worker(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path, None)
    assert pulse.look({1: 5}, 20, 1e9) is None
    assert pulse.look({1: 5}, 20, 1e9 + 3600) is None


def test_a_disk_with_room_is_no_trouble(tmp_path: Path) -> None:
    assert disk_trouble(tmp_path) is None


def test_results_that_have_no_place_are_refused_beforehand(tmp_path: Path) -> None:
    check_target(tmp_path / "out.jsonl", "-")
    check_target(Path("/dev/stdout"), "-")
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    with pytest.raises(UsageError, match="is the batch's input"):
        check_target(tmp_path / "link.jsonl", str(tmp_path / "in.jsonl"))
    with pytest.raises(UsageError, match="there is no folder"):
        check_target(tmp_path / "nowhere" / "out.jsonl", "-")
    with pytest.raises(UsageError, match="is a folder"):
        check_target(tmp_path, "-")
    with pytest.raises(UsageError, match="can't be written|no folder"):
        check_target(Path("/proc/1/out.jsonl"), "-")
