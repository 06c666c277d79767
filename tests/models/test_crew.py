"""A crew goes on whatever happens to its processes, and its parent ends it in order when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import processes
from models.crew import Crew, Plan
from tests.servers import wait_for


def test_a_process_that_cant_be_started_again_now_is_tried_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "BACKOFF_SECONDS", (0.0, 0.05))
    program = tmp_path / "program"
    ups = tmp_path / "ups"
    program.write_text(f"#!/bin/sh\necho up >> '{ups}'\nexec sleep 600\n")
    program.chmod(0o700)
    crew = Crew(Plan(processes=2, command=(str(program),)))
    crew.start()
    try:
        lost, other = crew.pids
        wait_for(lambda: ups.exists() and ups.read_text().count("up") == 2, "both to have read their program")
        program.rename(tmp_path / "away")
        subprocess.run(["kill", "-9", str(lost)], check=True)
        told = wait_for(crew.tick, "the death to be told")
        assert told == ["worker process 1 was killed by SIGKILL; it is started again"]
        assert crew.tick() == ["worker process 1 can't be started now: No such file or directory; it is tried again"]
        (tmp_path / "away").rename(program)
        wait_for(lambda: not crew.tick() and len(crew.pids) == 2, "another to be started")
        assert other in crew.pids
    finally:
        crew.stop(0.0)


SUPERVISES = """
import signal, sys, time
from models.crew import stop_signals
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stop_signals() as stopping:
    print("up", flush=True)
    while not stopping():
        time.sleep(0.01)
"""


@pytest.mark.parametrize("under", ["nohup", "nothing"])
def test_a_closed_terminal_ends_who_looks_after_workers_but_under_nohup(under: str) -> None:
    command = [sys.executable, "-c", SUPERVISES, under]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGHUP)
        if under == "nohup":
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("import faulthandler, os; os.write(2, b'it has hung\\n'); faulthandler.dump_traceback()", "it has hung"),
        ("import os; os.write(2, b'about to\\n'); raise KeyError('row')", "KeyError: 'row'"),
    ],
    ids=["stacks", "traceback"],
)
def test_what_a_process_said_last_is_a_sentence_and_no_line_of_its_stacks(end: str, told: str) -> None:
    done = subprocess.run([sys.executable, "-c", end], capture_output=True, text=True, check=False)
    assert "File" in done.stderr
    assert processes.last_words(done.stderr.splitlines()) == told
    assert processes.last_words(["", "  "]) == ""
