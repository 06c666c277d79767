"""Told to end with nothing under way, a worker beside a local server is gone at once: every `truckllm run` waits for it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Valkey, wait_for
from worker.app import LOCAL_POLL_SECONDS, make_app


def test_an_idle_worker_ends_within_a_moment(
    start: Callable[..., subprocess.Popen[str]], write_config: Callable[..., Path], valkey: Valkey
) -> None:
    config = write_config("http://127.0.0.1:1", redis_url=valkey.url)
    taken = []
    for _ in range(2):
        worker = start("worker", "-c", config)
        with valkey.client() as client:
            wait_for(lambda: client.info("clients")["blocked_clients"], "the worker to wait for tickets")
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        taken.append(time.monotonic() - began)
    # the poll of Celery's loop and of its broker are a second each, and clearing up a big process half a second
    assert min(taken) < 0.7


def test_only_a_server_of_this_machine_is_asked_more_often_than_once_a_second() -> None:
    near = make_app("unix:///run/valkey.sock", ["openai"]).conf.broker_transport_options
    far = make_app("rediss://redis.example:6379/0", ["openai"]).conf.broker_transport_options
    assert near["polling_interval"] == LOCAL_POLL_SECONDS
    assert "polling_interval" not in far
    assert {name: near[name] for name in far} == far
