"""Files in every form that is understood, through `truckllm run` against the sandbox."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import SandboxProcess

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_lines_of_three_vendors_in_one_file_come_back_as_each_vendor_writes_them(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_config(sandbox.url)
    sandbox.faults({"kind": "status", "status": 400, "model": "no-such-model"})
    say = {"role": "user", "content": "Say hi."}
    write_lines(
        [
            {"custom_id": "c", "params": {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [say]}},
            {"key": "g", "request": {"model": "models/gemini-3.5-flash", "contents": [{"parts": [{"text": "Hi"}]}]}},
            {
                "custom_id": "o",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "gpt-4o-mini", "messages": [say]},
            },
            {"custom_id": "bad", "params": {"model": "no-such-model", "max_tokens": 5, "messages": [say]}},
            {"key": "bad too", "request": {"contents": [{"parts": [{"text": "Hi"}]}]}, "model": "no-such-model"},
            {"id": "s", "model": "claude-haiku-4-5", "prompt": "Say hi."},
        ]
    )
    done = cli("run", "prompts.jsonl")
    assert done.returncode == 1, done.stderr
    claude, gemini, openai, bad_claude, bad_gemini, simple = rows(tmp_path / "prompts.results.jsonl")
    assert claude["result"]["type"] == "succeeded"
    assert claude["result"]["message"]["content"][0]["text"]
    assert gemini["key"] == "g"
    assert gemini["response"]["candidates"][0]["content"]["parts"][0]["text"]
    assert openai["response"]["body"]["choices"][0]["message"]["content"]
    assert bad_claude["result"]["error"]["error"]["type"] == "invalid_request_error"
    assert bad_gemini["error"]["code"] == 3
    assert simple["text"]


def test_a_compressed_csv_is_asked_row_by_row_and_its_columns_come_back(
    cli: Cli, sandbox: SandboxProcess, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    write_config(sandbox.url)
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(b"id,text,lang\na,Hello,fr\nb,Bye,de\n"))
    options = ("--template", "Translate to {lang}: {text}", "--model", "gpt-4o-mini")
    done = cli("run", "in.csv.gz", *options)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "in.results.jsonl")
    assert [(row["id"], row["metadata"]) for row in found] == [
        ("a", {"text": "Hello", "lang": "fr"}),
        ("b", {"text": "Bye", "lang": "de"}),
    ]
    assert all(row["text"] for row in found)
    wrong = cli("submit", "in.csv.gz", "--template", "{txt}", "--model", "gpt-4o-mini")
    assert wrong.returncode == 2
    assert "has the columns id, text, lang" in wrong.stderr


def test_results_come_in_any_form(
    cli: Cli, sandbox: SandboxProcess, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    write_config(sandbox.url)
    (tmp_path / "in.csv").write_text("id,text,model\na,Hello,gpt-4o-mini\nb,Bye,claude-haiku-4-5\n")
    done = cli("run", "in.csv", "--template", "Translate: {text}", "--format", "csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "in.results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["id"], first["metadata.text"], second["id"]) == ("a", "Hello", "b")
    texts = [first["text"], second["text"]]
    assert all(texts)
    found = {}
    for form in ("jsonl", "simple", "openai", "claude", "gemini"):
        assert cli("results", "1", "--format", form, "-o", f"{form}.out").returncode == 0
        found[form] = rows(tmp_path / f"{form}.out")
        assert [row["metadata"] for row in found[form]] == [{"text": "Hello"}, {"text": "Bye"}]
    assert found["jsonl"] == found["simple"]
    assert [row["text"] for row in found["simple"]] == texts
    assert [row["response"]["body"]["choices"][0]["message"]["content"] for row in found["openai"]] == texts
    assert [row["result"]["message"]["content"][0]["text"] for row in found["claude"]] == texts
    assert [row["response"]["candidates"][0]["content"]["parts"][0]["text"] for row in found["gemini"]] == texts
    assert cli("results", "1", "--format", "xml").returncode == 2
