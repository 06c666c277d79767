"""Every form of results for every kind of job, out of both databases: nothing is lost that the form has a place for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.config_file import load_config_text
from models.database import Database
from models.formats.results import Form
from submit import loading
from submit.exports import export
from submit.metadata_costs import spent_by
from submit.producer import submit_batch
from tests.servers import SandboxProcess
from tests.worker_by_hand import WorkerByHand

CONFIG = load_config_text(
    "providers: [{id: openai, keys: [{id: a, secret: s, limit_req_per_min: 9, limit_tokens_per_min: 9}]}]"
)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALLING = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [
        {
            "finish_reason": "tool_calls",
            "message": {
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
                ],
            },
        }
    ],
}
VECTORS = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 2]}]}
TALK = [{"role": "user", "content": "x"}]
OWN = {
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": TALK, "metadata": {"team": "body"}},
}
LINES: list[dict[str, Any]] = [
    {"id": "plain", "model": "m", "prompt": "x", "metadata": {"team": "red"}},
    {"id": "calling", "model": "m", "prompt": "x", "tools": [TOOL]},
    {"id": "silent", "model": "m", "prompt": "x"},  # calls a tool without a word, and names none
    {"id": "vectors", "model": "m", "embed": ["x"]},
    {"id": "failed", "model": "m", "prompt": "x"},
    {"custom_id": "own", **OWN, "metadata": {"team": "red"}, "row": 6},
    {"custom_id": "own-plain", **OWN},
    {"custom_id": "claude", "params": {"model": "m", "max_tokens": 5, "messages": TALK}, "team": "blue"},
    {"key": "gemini", "request": {"contents": [{"parts": [{"text": "x"}]}], "model": "m"}, "row": 9},
    {"key": "gemini-failed", "request": {"contents": [{"parts": [{"text": "x"}]}], "model": "m"}},
    {"custom_id": "claude-open", "params": {"model": "m", "max_tokens": 5, "messages": TALK}},
]
WITH_CALLS = {"calling", "silent", "own", "claude", "gemini"}


@pytest.fixture
def cli(quick_cli: Callable[..., Any]) -> Callable[..., Any]:
    return quick_cli


@pytest.fixture
def batch(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """All but the last line are done."""
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    number = submit_batch(LINES, config=CONFIG, database=database).batch_id
    worker = WorkerByHand(database)
    for line, job in zip(LINES, worker.claim(len(LINES) - 1), strict=False):
        name = line.get("id") or line.get("custom_id") or line["key"]
        if name.endswith("failed"):
            worker.fail(job)
        elif name == "vectors":
            worker.succeed(job, None, response=json.dumps(VECTORS).encode())
        elif name in WITH_CALLS:
            text = None if name == "silent" else "Let me see."
            worker.succeed(job, text, response=json.dumps(CALLING).encode())
        else:
            worker.succeed(job)
    return number


def written(database: Database, batch: int, form: Form, folder: Path) -> str:
    export(database, batch, folder / "out", partial=True, form=form)
    return (folder / "out").read_text()


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.CSV])
def test_every_kind_of_job_has_its_line_in_every_form(
    database: Database, batch: int, tmp_path: Path, form: Form
) -> None:
    rows = [json.loads(line) for line in written(database, batch, form, tmp_path).splitlines()]
    names = [line.get("id") or line.get("custom_id") or line["key"] for line in LINES]
    own = {Form.SIMPLE: "id", Form.GEMINI: "key"}.get(form, "custom_id")
    told = [row.get("custom_id") or row.get("key") or row["id"] if form is Form.JSONL else row[own] for row in rows]
    assert told == names
    calls = {name for name, row in zip(names, rows, strict=True) if '"weather"' in json.dumps(row)}
    assert calls == WITH_CALLS
    metadata = {name: row["metadata"] for name, row in zip(names, rows, strict=True) if row.get("metadata")}
    assert metadata == {
        "plain": {"team": "red"},
        "own": {"row": 6, "team": "red"},
        "claude": {"team": "blue"},
        "gemini": {"row": 9},
    }


def test_a_csv_has_calls_of_tools_and_what_stood_beside_a_body_in_columns(
    database: Database, batch: int, tmp_path: Path
) -> None:
    rows = list(csv.DictReader(io.StringIO(written(database, batch, Form.CSV, tmp_path), newline="")))
    by_name = {row["id"]: row for row in rows}
    assert list(by_name) == [line.get("id") or line.get("custom_id") or line["key"] for line in LINES]
    assert {name for name, row in by_name.items() if row["tool_calls"]} == WITH_CALLS
    assert json.loads(by_name["silent"]["tool_calls"]) == [{"id": "c1", "name": "weather", "arguments": {"a": 1}}]
    assert [(by_name[name]["team"], by_name[name]["row"]) for name in ("plain", "own", "claude", "gemini")] == [
        ("red", ""),
        ("red", "6"),
        ("blue", ""),
        ("", "9"),
    ]
    assert by_name["failed"]["error_code"] == by_name["gemini-failed"]["error_code"] == "bad_request"
    assert by_name["claude-open"]["status"] == "queued"


def test_costs_go_by_what_stood_beside_a_body_and_else_by_the_bodys_own_metadata(
    database: Database, batch: int
) -> None:
    rows, _ = spent_by(database, ["metadata.team"], batch_id=batch)
    assert {row.group[0]: row.succeeded for row in rows} == {"red": 2, "blue": 1, "body": 1, "": 4}


def test_an_interrupted_load_goes_on_with_what_stood_beside_bodies(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(loading, "CHUNK_ROWS", 8)

    def interrupt(what: str, lines: int) -> None:
        if what == "loading":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit_batch(LINES, config=CONFIG, database=database, progress=interrupt)
    done = submit_batch(LINES, config=CONFIG, database=database)
    assert done.found == "resumed"
    rows = [json.loads(line) for line in written(database, done.batch_id, Form.SIMPLE, tmp_path).splitlines()]
    assert [row["metadata"] for row in rows][5:9] == [{"row": 6, "team": "red"}, None, {"team": "blue"}, {"row": 9}]


def test_tools_metadata_and_models_come_through_a_whole_run(
    cli: Callable[..., Any],
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    routes = {"smart": {"candidates": ["claude/claude-haiku-4-5", "openai/gpt-4o"]}}
    old = {"fallback_models": {"missing-gpt": ["gpt-4o-mini"]}}
    write_config(sandbox.url, routes=routes, settings={"openai": old})
    own = {"method": "POST", "url": "/v1/chat/completions"}
    ask = [{"role": "user", "content": "Weather?"}]
    calling = {"prompt": "Weather?", "tools": [TOOL], "tool_choice": "required"}
    write_lines(
        [
            {**calling, "id": "s", "model": "gpt-4o", "provider": "openai"},
            {"custom_id": "o", **own, "body": {"messages": ask}, "team": "red"},
            {"id": "old", "prompt": "x", "model": "missing-gpt", "provider": "openai"},
            {**calling, "id": "c", "model": "claude-haiku-4-5", "provider": "claude"},
            {**calling, "id": "g", "model": "gemini-3.5-flash", "provider": "gemini"},
        ]
    )
    done = cli("run", "prompts.jsonl", "--route", "smart", "--no-fallback")
    assert done.returncode == 1, done.stderr
    results = (tmp_path / "prompts.results.jsonl").read_text().splitlines()
    simple, openai, old_one, claude, gemini = map(json.loads, results)
    for row, provider in ((simple, "openai"), (claude, "claude"), (gemini, "gemini")):
        (call,) = row["tool_calls"]
        assert (row["provider"], call["name"], type(call["arguments"])) == (provider, "weather", dict)
        assert call["id"]
    assert openai["metadata"] == {"team": "red"}
    assert openai["response"]["body"]["model"].startswith("claude-haiku-4-5"), "the first candidate of --route"
    assert (old_one["status"], old_one["error"]["code"]) == ("failed", "model_not_found")
    assert (old_one["requested_model"], old_one["attempts"]) == ("missing-gpt", 1)
    assert (claude["requested_model"], claude["served_model"][:16]) == ("claude-haiku-4-5", "claude-haiku-4-5")
    (row,) = (
        row
        for row in json.loads(cli("costs", "--by", "metadata.team", "--json").stdout)["rows"]
        if row["metadata.team"]
    )
    assert (row["metadata.team"], row["calls"]) == ("red", 1)
