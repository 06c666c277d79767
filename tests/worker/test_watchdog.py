"""A loop that hangs is noticed, one that is busy or whose machine stood still is not."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.conftest import wait_for
from worker.watchdog import HUNG, Watchdog

HANGS = """
import asyncio, sys, threading, time
from worker import watchdog
watchdog.PATIENCE = 10
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
watchdog.Watchdog(loop, tick=0.05, patience=10).start()
print("up", flush=True)
sys.stdin.readline()
loop.call_soon_threadsafe(time.sleep, 600)
time.sleep(600)
"""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_a_loop_that_hangs_is_bitten_once(loop: asyncio.AbstractEventLoop) -> None:
    bites: list[float] = []
    release = threading.Event()
    dog = Watchdog(loop, tick=0.02, patience=10, bite=lambda: bites.append(time.monotonic()))
    dog.start()
    loop.call_soon_threadsafe(release.wait)
    wait_for(lambda: bites, "the watchdog to bite", 10)
    release.set()
    dog.stop()
    assert len(bites) == 1


def test_a_busy_loop_is_left_alone(loop: asyncio.AbstractEventLoop) -> None:
    bites: list[int] = []
    turns = 0

    def spin() -> None:
        nonlocal turns
        turns += 1
        time.sleep(0.002)
        loop.call_soon(spin)

    dog = Watchdog(loop, tick=0.01, patience=20, bite=lambda: bites.append(1))
    dog.start()
    loop.call_soon_threadsafe(spin)
    wait_for(lambda: turns > 200, "the loop to be busy for a while")
    dog.stop()
    assert not bites


def test_a_process_that_hangs_ends_with_where_it_hung_and_one_that_was_stopped_does_not() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)  # three times its patience
        process.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.stdin.write("hang\n")
        process.stdin.flush()
        assert process.wait(20) == HUNG
        assert "run_forever" in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
