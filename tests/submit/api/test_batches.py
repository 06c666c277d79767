"""Batches over HTTP: in, steered, out; each does what the command of its name does."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
import zstandard
from starlette.testclient import TestClient

from models.database import Database
from models.store import batches, endings
from models.store.attempts import Announcement
from models.store.endings import Ending
from submit.api.batches import Submission
from submit.batch_options import Given
from tests.making import NOW, announce, claim, ending, make_batch, make_worker

LINES = [{"id": f"p{n}", "prompt": f"say {n}", "model": "gpt-4o"} for n in range(3)]
BODY = "".join(json.dumps(line) + "\n" for line in LINES).encode()


def submit(client: TestClient, body: bytes = BODY, **query: Any) -> dict[str, Any]:
    done = client.post("/v1/batches", content=body, params=query)
    assert done.status_code in (200, 201), done.text
    return dict(done.json())


def answered(call: Announcement) -> Ending:
    """An ending whose answer can be read."""
    done = ending(call)
    assert done.answer is not None
    packed = zstandard.compress(b"an answer")
    return replace(done, answer=replace(done.answer, response=packed, text=packed))


def test_a_body_becomes_a_batch_and_is_found_again(client: TestClient) -> None:
    first = client.post("/v1/batches", content=BODY, params={"name": "mine", "priority": 3})
    assert first.status_code == 201
    assert first.headers["Location"] == f"/v1/batches/{first.json()['batch_id']}"
    assert (first.json()["total"], first.json()["found"]) == (3, "new")
    again = client.post("/v1/batches", content=BODY)
    assert (again.status_code, again.json()["found"]) == (200, "resumed")
    seen = client.get(first.headers["Location"]).json()
    assert (seen["name"], seen["status"], seen["total"], seen["queued"]) == ("mine", "queued", 3, 3)
    assert client.get("/v1/batches").json()["batches"] == [seen]
    jobs = client.get(f"{first.headers['Location']}/jobs", params={"status": "queued", "limit": 2}).json()["jobs"]
    assert [job["id"] for job in jobs] == ["p0", "p1"]


def test_a_packed_body_and_a_table_are_taken_too(client: TestClient) -> None:
    assert submit(client, gzip.compress(BODY))["total"] == 3
    table = submit(client, b"text\nhello\nworld\n", template="Translate: {text}", model="gpt-4o")
    assert table["total"] == 2


def test_every_option_of_a_batch_is_a_parameter() -> None:
    names = {field.alias or name for name, field in Submission.model_fields.items()}
    assert set(Given.__annotations__) <= names


def test_a_schema_that_answers_must_fit_is_taken_as_json(client: TestClient, database: Database) -> None:
    shape = {"type": "object", "properties": {"a": {"type": "string"}}}
    number = submit(client, schema=json.dumps(shape))["batch_id"]
    with database.read() as connection:
        stored = json.loads(batches.get(connection, number)["defaults"])
    assert stored["response_format"]["json_schema"]["schema"] == shape
    assert client.post("/v1/batches", content=BODY, params={"schema": "{oops", "new": "true"}).status_code == 400


def test_bad_lines_are_named_and_nothing_is_enqueued(client: TestClient) -> None:
    refused = client.post("/v1/batches", content=BODY + b"{oops\n")
    assert refused.status_code == 400
    assert refused.json()["error"]["bad_lines"] == 1
    assert refused.json()["error"]["lines"][0]["line"] == 4
    assert client.get("/v1/batches").json() == {"batches": []}


@pytest.mark.parametrize(
    ("path", "query", "named"),
    [
        ("/v1/batches", {"limit": "0"}, "limit"),
        ("/v1/batches", {"colour": "red"}, "colour"),
        ("/v1/batches", {"temperature": "warm"}, "temperature"),
        ("/v1/batches", {"max_cost": "much"}, "much"),
        ("/v1/batches", {"max_cost": "0"}, "more than 0"),
        ("/v1/batches", [("limit", "1"), ("limit", "2")], "twice"),
        ("/v1/batches/1/priority", {}, "priority"),
    ],
)
def test_a_wrong_query_names_its_parameter(client: TestClient, path: str, query: Any, named: str) -> None:
    refused = client.post(path, params=query, content=BODY if path == "/v1/batches" else None)
    assert refused.status_code == 400
    assert named in refused.json()["error"]["message"]


def test_a_rerun_that_another_batch_of_the_same_file_is_in_the_way_of_says_which_and_what_to_do(
    client: TestClient,
) -> None:
    assert client.post("/v1/batches", content=BODY).json()["batch_id"] == 1
    assert client.post("/v1/batches/1/cancel").status_code == 200
    assert client.post("/v1/batches", content=BODY).json()["batch_id"] == 2
    refused = client.post("/v1/batches/1/rerun?status=cancelled")
    assert refused.status_code == 409
    message = refused.json()["error"]["message"]
    assert message.startswith("batch 2 works on the same file with the same options")
    assert "`truckllm cancel 2`; then rerun batch 1. Nothing was changed" in message
    assert client.post("/v1/batches/2/cancel").status_code == 200
    assert client.post("/v1/batches/1/rerun?status=cancelled").json()["queued"] > 0


@pytest.mark.parametrize(
    "path", ["/v1/batches/7", "/v1/batches/seven", "/v1/batches/7/results", "/v1/batches/7/jobs", "/v1/nothing"]
)
def test_what_isnt_there_is_a_404(client: TestClient, path: str) -> None:
    missing = client.get(path)
    assert missing.status_code == 404
    assert missing.json()["error"]["message"]


@pytest.mark.parametrize("asked", ["resume", "rerun", "priority"])
def test_what_is_asked_in_a_body_that_nobody_reads_is_refused_and_nothing_changes(
    client: TestClient, asked: str
) -> None:
    client.post("/v1/batches", content=BODY)
    before = client.post("/v1/batches/1/pause").json()
    refused = client.post(f"/v1/batches/1/{asked}", json={"max_cost": "1", "priority": 5, "status": "cancelled"})
    assert (refused.status_code, "parameters go into the query" in refused.text) == (400, True)
    assert client.get("/v1/batches/1").json() == before


def test_pause_resume_priority_and_cancel_are_as_the_commands(client: TestClient) -> None:
    one = f"/v1/batches/{submit(client)['batch_id']}"
    assert client.post(f"{one}/pause").json()["status"] == "paused"
    assert client.post(f"{one}/resume", params={"max_cost": "2"}).json()["status"] == "queued"
    assert client.post(f"{one}/resume").status_code == 409
    assert client.post(f"{one}/priority", params={"priority": 5}).status_code == 200
    assert client.post(f"{one}/cancel").json()["cancelled"] == 3
    assert client.post(f"{one}/cancel").status_code == 409
    only = client.post(f"{one}/rerun", params=[("status", "cancelled"), ("id", "p0"), ("id", "p2")])
    assert only.json()["queued"] == 2
    assert client.post(f"{one}/cancel").json()["cancelled"] == 3
    assert client.post(f"{one}/rerun", params={"status": "succeeded"}).status_code == 409
    assert client.post(f"{one}/rerun", params={"status": "running"}).status_code == 400
    assert client.post(f"{one}/rerun", params={"status": "cancelled"}).json()["queued"] == 3
    assert client.delete(one).status_code == 409
    assert client.post(f"{one}/cancel").status_code == 200
    assert client.delete(one).json()["jobs"] == 3
    assert client.get(one).status_code == 404


def test_results_come_in_input_order_so_far_or_final(client: TestClient, database: Database) -> None:
    number = make_batch(database, 3)
    worker = make_worker(database)
    job = claim(database, worker, most=1)[0]
    call = announce(database, job)[0]
    with database.write() as connection:
        endings.record(connection, [answered(call)], 0, NOW)
    written = client.get(f"/v1/batches/{number}/results")
    assert written.headers["Content-Type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in written.text.splitlines()]
    assert [line["id"] for line in lines] == ["line-1", "line-2", "line-3"]
    assert [line["status"] for line in lines] == ["succeeded", "queued", "queued"]
    table = client.get(f"/v1/batches/{number}/results", params={"format": "csv"})
    assert len(table.text.splitlines()) == 4
