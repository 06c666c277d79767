"""Bodies that are too large, that find no room, or whose sender goes away: refused by name, and nothing of them stays."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import gzip
import io
import json
import logging
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from starlette.testclient import TestClient

from models.database import Database
from submit import source
from submit.api.access import Access
from submit.api.app import application
from submit.api.asked import Api
from tests.submit.api.conftest import TOKEN
from tests.submit.test_workbooks import workbook

LINE = json.dumps({"prompt": "x" * 1000, "model": "openai/gpt-4o"}).encode() + b"\n"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def batches(client: TestClient) -> list[Any]:
    found: list[Any] = client.get("/v1/batches").json()["batches"]
    return found


def test_a_body_that_says_it_is_too_large_isnt_read(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    refused = client.post("/v1/batches", content=endless(), headers={"Content-Length": "1000001"})
    assert refused.status_code == 413
    assert "--largest-upload" in refused.json()["error"]["message"]


def test_a_body_that_turns_out_to_be_too_large_is_refused(client: TestClient) -> None:
    refused = client.post("/v1/batches", content=(LINE for _ in range(1000)))
    assert refused.status_code == 413
    assert batches(client) == []


@pytest.mark.parametrize("room", [50_000, 200_000])
def test_a_full_disk_is_told_and_nothing_is_enqueued(client: TestClient, room: int) -> None:
    body = LINE * 205  # what is left in memory at the end is more than the room
    with files_of_at_most(room):
        refused = client.post("/v1/batches", content=body)
    assert refused.status_code == 507
    assert "no room" in refused.json()["error"]["message"]
    assert batches(client) == []
    assert client.post("/v1/batches", content=body).status_code == 201


def test_a_body_lies_on_disk_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(_: object) -> None:
        raise AssertionError("a second copy was made")

    monkeypatch.setattr(source, "_copied", copied)
    assert client.post("/v1/batches?name=once", content=LINE * 3).json()["total"] == 3


def test_a_sender_that_goes_away_leaves_no_file_no_batch_and_no_alarm(
    api: Api, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [{"type": "http.request", "body": LINE * 5, "more_body": True}, {"type": "http.disconnect"}]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/batches",
        "raw_path": b"/v1/batches",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {TOKEN}".encode())],
    }

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(_: Any) -> None:
        """Nobody hears it."""

    with warnings.catch_warnings(), caplog.at_level(logging.INFO, "truckllm.api"):
        warnings.simplefilter("error", ResourceWarning)  # a file that was left open
        asyncio.run(application(api, Access(TOKEN, None))(scope, receive, send))
        gc.collect()
    assert caplog.records == []
    assert batches(client) == []


def test_jobs_are_read_page_by_page(client: TestClient, database: Database) -> None:
    assert client.post("/v1/batches", content=LINE * 5).status_code == 201
    pages, after = [], -1
    while after is not None:
        page = client.get("/v1/batches/1/jobs", params={"limit": 2, "after": after}).json()
        pages.append([job["position"] for job in page["jobs"]])
        after = page["next_after"]
    assert pages == [[0, 1], [2, 3], [4]]
    assert client.get("/v1/batches/1/jobs?after=99").json() == {"jobs": [], "next_after": None}
    assert client.get("/v1/batches/1/jobs?after=-2").status_code == 400


def test_a_table_is_one_batch_however_often_it_is_uploaded(client: TestClient) -> None:
    """Readers that seek in the upload change nothing in its identity."""
    for kind, content in (("parquet", parquet_of(["a", "b"])), ("xlsx", workbook(["text"], ["a"], ["b"]))):
        asked = {"template": f"{kind} {{text}}", "model": "openai/gpt-4o"}
        answers = [client.post("/v1/batches", params=asked, content=content) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
        assert len({answer.json()["batch_id"] for answer in answers}) == 1


def test_what_an_upload_unpacks_to_has_a_limit(api: Api) -> None:
    small = dataclasses.replace(api, largest_unpacked=100_000)
    with TestClient(application(small, Access(TOKEN, None))) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        assert client.post("/v1/batches", content=gzip.compress(LINE * 90)).status_code == 201
        refused = client.post("/v1/batches", content=gzip.compress(LINE * 100))
    assert refused.status_code == 400
    assert "unpacks to more than 100,000 bytes" in refused.json()["error"]["message"]


def parquet_of(texts: list[str]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), out)
    return out.getvalue()
