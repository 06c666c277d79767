"""A process whose loop hangs is ended, however it hangs; one that is busy, or was stopped, is left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.servers import wait_for
from worker.watchdog import HUNG, LIBRARIES

PATIENT_SECONDS = 0.5

WATCHED = f"""
import asyncio, ctypes, re, sys, threading, time
from worker.watchdog import Watchdog

def busy():
    for turn in range(500):
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass
        yield

def spin(turns):
    if next(turns, "over") == "over":
        print("still here", flush=True)
    else:
        loop.call_soon(spin, turns)

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
dog = Watchdog(loop, tick=0.05, patience={PATIENT_SECONDS / 0.05:.0f})
dog.start()
print(dog.pid, flush=True)
loop.call_soon_threadsafe(eval(sys.stdin.readline()))
while True:
    sys.stdin.readline()
    print(dog.pid, flush=True)
    time.sleep(0.01)
"""

HANGS = {
    "waits": "lambda: time.sleep(600)",
    "computes with Python's lock": "lambda: re.match('(a+)+$', 'a' * 40 + 'b')",
    "waits with Python's lock": "lambda: ctypes.PyDLL(None).sleep(600)",
}


class Watched:
    """A process with a watchdog, which does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", WATCHED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.watcher = psutil.Process(int(self.read()))

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ended(self) -> int:
        return self.process.wait(60)

    def said(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def lives(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.mark.parametrize("hang", HANGS)
def test_a_process_that_hangs_ends_with_where_it_hung(watched: Watched, hang: str) -> None:
    watched.write(HANGS[hang])
    assert watched.ended() == HUNG
    said = watched.said()
    assert f"process {watched.process.pid} has hung" in said
    assert "in run_forever" in said
    wait_for(lambda: not watched.watcher.is_running(), "the watcher to end, too")


def test_a_busy_loop_is_left_alone(watched: Watched) -> None:
    watched.write("lambda: spin(busy())")  # twice its patience
    assert watched.read() == "still here\n"


def test_a_process_that_was_stopped_goes_on(watched: Watched) -> None:
    watched.process.send_signal(signal.SIGSTOP)
    assert watched.lives(3 * PATIENT_SECONDS)
    watched.process.send_signal(signal.SIGCONT)
    assert watched.lives(PATIENT_SECONDS)


def test_a_watcher_that_is_told_to_end_stays_and_one_that_dies_is_replaced(watched: Watched) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        watched.watcher.send_signal(number)
    watched.write("print")
    assert watched.read() == "\n"
    watched.write("")
    assert watched.read() == f"{watched.watcher.pid}\n"
    watched.watcher.kill()

    def another() -> bool:
        watched.write("")
        return watched.read().strip() not in ("None", str(watched.watcher.pid))

    wait_for(another, "another watcher")


def test_a_watcher_ends_with_its_process(watched: Watched) -> None:
    watched.process.kill()
    wait_for(lambda: not watched.watcher.is_running(), "the watcher to end")


def test_of_the_processs_environment_only_where_libraries_lie_reaches_its_watcher(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary")
    for name in LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    watched: Watched = request.getfixturevalue("watched")
    assert watched.watcher.environ() == {"LD_LIBRARY_PATH": "/nowhere"}
