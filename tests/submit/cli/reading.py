"""What the tests of the command line have in common: half-done work, and what a command printed as JSON."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from models.database import Database
from tests.worker_by_hand import WorkerByHand

Cli = Callable[..., subprocess.CompletedProcess[str]]


def worked_on(database: Database) -> None:
    """Two jobs of the first batch succeed, one fails, one stays queued."""
    worker = WorkerByHand(database)
    first, second, third = worker.claim(3)
    worker.succeed(first, cost_nanos=1_500_000)
    worker.succeed(second, cost_nanos=None, currency=None)
    worker.fail(third, "bad_request", "it can't do that")


def loaded(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
