"""Told to end with nothing under way, a worker beside a local server is gone at once: every `truckllm run` waits for it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from models.database import Database
from models.store import workers as worker_store
from tests.servers import Valkey, wait_for
from worker.app import LOCAL_POLL_SECONDS, make_app
from worker.process import Process, _ToldEarly


def test_an_idle_worker_ends_within_a_moment(
    start: Callable[..., subprocess.Popen[str]], write_config: Callable[..., Path], valkey: Valkey
) -> None:
    config = write_config("http://127.0.0.1:1", redis_url=valkey.url)
    taken: list[float] = []
    while len(taken) < 6 and not (taken and taken[-1] < 0.7):  # this machine may stand still for a moment
        worker = start("worker", "-c", config)
        with valkey.client() as client:
            wait_for(lambda: client.info("clients")["blocked_clients"], "the worker to wait for tickets")
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        taken.append(time.monotonic() - began)
    # the poll of Celery's loop and of its broker are a second each, and clearing up a big process half a second
    assert min(taken) < 0.7


LISTENS = """
import signal, sys
from celery.signals import worker_ready
from worker.consumer import Consumer

NUMBERS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
before = [signal.getsignal(number) for number in NUMBERS]
consumer = Consumer(sys.argv[1], ["p"], print)

@worker_ready.connect
def ready(**_):
    print([signal.getsignal(number) for number in NUMBERS] == before)
    consumer.stop()

consumer.run("listens")
"""


def test_celery_takes_no_signal_from_us_so_that_none_is_lost_while_it_starts(valkey_url: str) -> None:
    """A SIGTERM that came between its handlers and ours ended its consumer again and again, and the worker never."""
    done = subprocess.run(
        [sys.executable, "-c", LISTENS, valkey_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "True\n", done.stderr


def test_a_worker_told_to_end_while_it_starts_ends_with_0_and_leaves_no_trace(
    start: Callable[..., subprocess.Popen[str]],
    write_config: Callable[..., Path],
    valkey: Valkey,
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    shutil.copy(sqlite_template, tmp_path / "truckllm.db")
    config = write_config("http://127.0.0.1:1", redis_url=valkey.url)
    url = f"sqlite:///{tmp_path}/truckllm.db"
    database = Database(url)

    def registered() -> int:
        with database.read() as connection:
            return len(worker_store.everyone(connection))

    valkey.process.send_signal(signal.SIGSTOP)
    try:
        worker = start("worker", "-c", config, TRUCKLLM_DATABASE_URL=url)
        wait_for(registered, "it to have a number, and to wait for Redis")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert not registered()
    finally:
        valkey.process.send_signal(signal.SIGCONT)
        database.close()


def test_a_worker_told_twice_to_end_while_it_starts_is_interrupted_once() -> None:
    process = Process.__new__(Process)  # nothing of it is there yet
    process._begun = process.stopping = False
    process._give_up = threading.Event()
    with pytest.raises(_ToldEarly):
        process._signalled(signal.SIGTERM, None)
    process._signalled(signal.SIGINT, None)
    assert process._give_up.is_set()


def test_only_a_server_of_this_machine_is_asked_more_often_than_once_a_second() -> None:
    near = make_app("unix:///run/valkey.sock", ["openai"]).conf.broker_transport_options
    far = make_app("rediss://redis.example:6379/0", ["openai"]).conf.broker_transport_options
    assert near["polling_interval"] == LOCAL_POLL_SECONDS
    assert "polling_interval" not in far
    assert {name: near[name] for name in far} == far
