"""`truckllm workers` shows who runs suspects apart, and whose configuration differs from the last one started."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from models import processes
from models.database import Database, upgrade
from models.store import workers as worker_store


@pytest.fixture
def home(tmp_path: Path) -> Database:
    (tmp_path / "home").mkdir()
    database = Database(f"sqlite:///{tmp_path}/home/truckllm.db")
    upgrade(database)
    return database


def register(database: Database, config_hash: str, *, host: str = "elsewhere", alone_for: int | None = None) -> int:
    with database.write() as connection:
        return worker_store.register(
            connection,
            host=host,
            boot_id=processes.boot_id(),
            pid=os.getpid(),
            pid_started=0.0,  # nobody's, on this machine
            queues=["openai"],
            config_hash=config_hash,
            now=database.now(connection),
            alone_for=alone_for,
        )


def test_live_workers_that_differ_from_the_last_one_started_are_marked_and_warned_of(
    cli: Callable[..., subprocess.CompletedProcess[str]], home: Database
) -> None:
    old = register(home, "aaaaaaaaaaaaaaaa")
    newest = register(home, "bbbbbbbbbbbbbbbb")
    dead = register(home, "cccccccccccccccc", host=processes.host())
    told = cli("workers")
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if line.strip()}
    assert "aaaaaaaa differs" in lines[str(old)]
    assert "differs" not in lines[str(newest)]
    assert "differs" not in lines[str(dead)]
    assert f"1 live worker runs with another configuration than worker {newest}" in told.stderr


def test_workers_that_agree_are_not_warned_of(
    cli: Callable[..., subprocess.CompletedProcess[str]], home: Database
) -> None:
    parent = register(home, "aaaaaaaaaaaaaaaa")
    apart = register(home, "aaaaaaaaaaaaaaaa", alone_for=parent)
    told = cli("workers")
    assert told.stderr == ""
    assert f"openai (suspects, for {parent})" in told.stdout
    rows = json.loads(cli("workers", "--json").stdout)["workers"]
    assert [(row["id"], row["alone_for"]) for row in rows] == [(parent, None), (apart, parent)]
