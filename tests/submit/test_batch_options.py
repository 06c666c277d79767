"""Options for all lines of a batch: they make another batch, are kept with it, and reach the calls."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.config_file import load_config_text
from models.database import Database
from models.errors import ConflictError, InputError, UsageError
from models.store import batches, reruns
from models.tables import jobs
from submit.exports import export
from submit.producer import Submitted, submit_batch
from tests.servers import SandboxProcess
from tests.worker_by_hand import WorkerByHand

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
CONFIG = load_config_text(
    "providers: [{id: openai, keys: [{id: a, secret: s, limit_req_per_min: 9, limit_tokens_per_min: 9}]}]"
)
OPTIONS: dict[str, Any] = {"system": "Be brief.", "max_tokens": 5, "temperature": 0.5, "schema": {"type": "object"}}
GOOD = {"model": "gpt-4o", "prompt": "x"}
OWN = {
    "custom_id": "o",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))


@pytest.fixture
def put(database: Database) -> Callable[..., Submitted]:
    def put(source: Any, **options: Any) -> Submitted:
        return submit_batch(source, config=CONFIG, database=database, **options)

    return put


def test_each_option_makes_another_batch_and_is_kept_with_it(put: Callable[..., Submitted], database: Database) -> None:
    put([GOOD])
    for name, value in OPTIONS.items():
        with pytest.raises(ConflictError, match=f"now {'response_format' if name == 'schema' else name}: "):
            put([GOOD], **{name: value})
    made = put([GOOD], **OPTIONS, new=True)
    with database.read() as connection:
        kept = json.loads(batches.get(connection, made.batch_id)["defaults"])
    assert kept.keys() == {"system", "max_tokens", "temperature", "response_format"}
    assert put([GOOD], **OPTIONS).batch_id == made.batch_id


def test_lines_in_a_vendors_form_are_told_to_go_as_they_are(put: Callable[..., Submitted]) -> None:
    warnings = put([GOOD, OWN], system="Be brief.", max_tokens=5).warnings
    assert "1 line in a vendor's own form goes as it is: system, max_tokens of the batch isn't filled in" in warnings
    assert not any("vendor" in warning for warning in put([OWN]).warnings)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "can't read the schema"), ("{", "is not JSON"), ("[]", "JSON object")]
)
def test_a_schema_that_cant_be_read_is_an_error_that_names_the_file(
    put: Callable[..., Submitted], tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=words) as refused:
        put([GOOD], schema=path)
    assert "schema.json" in str(refused.value)


# Bad lines as failed jobs

MIXED = [
    GOOD,
    {"model": "gpt-4o"},
    {**GOOD, "id": "b"},
    {"id": "n", "model": "gpt-4o", "prompt": 7, "metadata": {"r": 1}},
]


def test_bad_lines_count_as_failed_jobs_and_keep_their_place(
    put: Callable[..., Submitted], database: Database, tmp_path: Path
) -> None:
    made = put(MIXED, skip_invalid=True)
    assert made.total == 4
    assert "2 lines can't be sent, and count as failed (line 2: has none of prompt" in " ".join(made.warnings)
    with database.read() as connection:
        counts = batches.counts(connection, made.batch_id)
    assert (counts.total, counts.failed, counts.left) == (4, 2, 2)
    worker = WorkerByHand(database)
    claimed = worker.claim(10)
    assert len(claimed) == 2
    for job in claimed:
        worker.succeed(job, text="hi")
    with database.read() as connection:
        assert batches.get(connection, made.batch_id)["status"] == "completed"
    export(database, made.batch_id, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == ["line-1", "line-2", "b", "n"]
    assert [row["status"] for row in found] == ["succeeded", "failed", "succeeded", "failed"]
    assert found[3]["error"] == {"code": "invalid_line", "message": "prompt must be a string, not 7"}
    assert found[3]["metadata"] == {"r": 1}


def test_a_rerun_leaves_bad_lines_alone(put: Callable[..., Submitted], database: Database) -> None:
    made = put(MIXED, skip_invalid=True)
    with database.write() as connection:
        assert reruns.rerun(connection, made.batch_id).number == 0


def test_a_file_without_one_good_line_is_refused_all_the_same(put: Callable[..., Submitted]) -> None:
    with pytest.raises(InputError, match="2 of 2 lines"):
        put([{}, {"prompt": 7}], skip_invalid=True)


def test_an_interrupted_load_with_bad_lines_goes_on(
    put: Callable[..., Submitted], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import submit.loading

    monkeypatch.setattr(submit.loading, "CHUNK_ROWS", 2)
    real = batches.add_jobs
    calls = 0

    def fails(*arguments: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(batches, "add_jobs", fails)
    with pytest.raises(KeyboardInterrupt):
        put(MIXED, skip_invalid=True)
    made = put(MIXED, skip_invalid=True)
    assert made.found == "resumed"
    with database.read() as connection:
        counts = batches.counts(connection, made.batch_id)
        positions = connection.execute(sa.select(jobs.c.position).order_by(jobs.c.position)).scalars().all()
    assert (counts.total, counts.failed) == (4, 2)
    assert positions == [0, 1, 2, 3]


def test_a_run_fills_in_what_lines_dont_say_and_fails_the_bad_ones(
    cli: Cli, sandbox: SandboxProcess, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    write_config(sandbox.url)
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    lines = [{"model": model, "prompt": "Hi"} for model in ("gpt-4o-mini", "gemini-3.5-flash", "claude-haiku-4-5")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "oops\n")
    options = ("--system", "Be brief.", "--max-tokens", "40", "--temperature", "0.2", "--schema", "schema.json")
    refused = cli("run", "in.jsonl", *options)
    assert refused.returncode == 2
    done = cli("run", "in.jsonl", *options, "--skip-invalid")
    assert done.returncode == 1, done.stderr
    assert "`truckllm rerun 1`" not in done.stdout  # it would leave the bad line alone
    found = [json.loads(line) for line in (tmp_path / "in.results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in found] == ["succeeded"] * 3 + ["failed"]
    assert found[3]["error"]["code"] == "invalid_line"
    assert all(row["output_tokens"] <= 40 for row in found[:3])
