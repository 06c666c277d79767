"""A mistake in what is asked of the database is seen in the log: who met it tries again all the time, and would be silent for ever."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Never

import pytest
from sqlalchemy.engine import Connection

from models.database import Database
from models.errors import NotFoundError, StorageError
from worker import logs
from worker.recorder import Recorder


def mistaken(_: Connection) -> Never:
    raise NameError("no such name")


def mistaken_otherwise(_: Connection) -> Never:
    raise KeyError("no such key")


def refused(_: Connection) -> Never:
    raise NotFoundError("there is no batch 7")


def test_a_mistake_is_told_with_its_traceback_but_not_each_time_that_it_is_met_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        for one in (mistaken, mistaken_otherwise, mistaken, refused):
            with pytest.raises(StorageError):
                await recorder.call(one)
        monkeypatch.setattr(logs, "TELL_AGAIN", 0.0)
        with pytest.raises(StorageError):
            await recorder.call(mistaken)
        assert await asyncio.to_thread(recorder.stop, 10.0)

    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with caplog.at_level(logging.ERROR, "truckllm.recorder"):
        asyncio.run(asyncio.wait_for(run(), 30))
    database.close()
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [NameError, KeyError, NameError]
    assert "in mistaken\n" in caplog.text
    assert "(NameError)" in caplog.records[0].getMessage()
