"""The Celery app is whole when it is made: what two threads would import at once later is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kombu.utils.functional
import pytest

from worker.app import make_app

SENDS_AND_TAKES = """
import sys
from models.queues import queue_name
from worker.app import make_app
app = make_app(sys.argv[1], ["openai"])
before = set(sys.modules)
app.send_task("t", queue=queue_name("openai"), retry=False)
app.Worker(pool="threads", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True)
app.events.Dispatcher, app.events.Receiver
late = sorted(name for name in set(sys.modules) - before if name.startswith(("celery.app", "celery.events", "celery.loaders", "kombu")))
print(late)
"""


def test_neither_sending_nor_taking_a_ticket_imports_what_the_other_does(valkey_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SENDS_AND_TAKES, valkey_url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_redis_that_is_away_for_long_is_looked_for_as_often_as_at_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kombu.utils.functional, "sleep", lambda _seconds: None)
    pauses: list[float] = []

    class Enough(Exception):
        pass

    def look_on(_error: Exception, pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 30:
            raise Enough

    connection = make_app(f"unix://{tmp_path}/nobody", ["openai"]).connection_for_read()
    with pytest.raises(Enough):
        connection.ensure_connection(look_on, None)  # as Celery's consumer does
    assert set(pauses) == {2.0}
