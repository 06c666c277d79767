"""Everything that can be asked for besides chat, in one file through `truckllm run`, against the sandbox."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.servers import SandboxProcess

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def batch_line(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


LINES: list[dict[str, Any]] = [
    batch_line("response", "/v1/responses", model="gpt-5.4-mini", input="Say one.", max_output_tokens=100),
    batch_line("stream", "/v1/responses", model="gpt-5.4-mini", input="Say two.", stream=True),
    batch_line("legacy", "/v1/completions", model="gpt-3.5-turbo-instruct", prompt="Once upon"),
    batch_line("vectors", "/v1/embeddings", model="text-embedding-3-small", input=["a", "b"], dimensions=4),
    {"id": "openai", "model": "text-embedding-3-small", "embed": ["first", "second"], "dimensions": 4, "metadata": 7},
    {"id": "gemini", "model": "gemini-embedding-001", "embed": "only one", "dimensions": 3},
    {"id": "claude", "model": "claude-haiku-4-5", "embed": "nobody there does that"},
    {"id": "tuned", "model": "ft:gpt-4o-mini:org::1", "prompt": "Say three.", "service_tier": "flex"},
    batch_line("later", "/v1/responses", model="gpt-5.4-mini", input="Say four.", background=True),
]


def test_a_file_of_every_operation_is_answered(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    config, prompts = write_config(sandbox.url), write_lines(LINES)
    done = cli("run", prompts, "-c", config)
    assert done.returncode == 1, done.stderr  # two of the lines ask for what isn't done
    rows = [json.loads(line) for line in (tmp_path / "prompts.results.jsonl").read_text().splitlines()]
    assert [row.get("custom_id") or row.get("id") for row in rows] == [
        line.get("custom_id") or line["id"] for line in LINES
    ]
    response, stream, legacy, vectors, openai, gemini, claude, tuned, later = rows
    for row in (response, stream):
        assert (row["response"]["status_code"], row["response"]["body"]["status"]) == (200, "completed")
        assert row["response"]["body"]["output"][0]["content"][0]["text"]
    assert legacy["response"]["body"]["object"] == "text_completion"
    assert [len(entry["embedding"]) for entry in vectors["response"]["body"]["data"]] == [4, 4]
    assert [len(vector) for vector in openai["embeddings"]] == [4, 4]
    assert (openai["text"], openai["output_tokens"], openai["metadata"]) == (None, 0, 7)
    # "first" and "second", joined by a line break, are 12 characters: 3 tokens at 0.002 for 1,000
    assert (openai["input_tokens"], Decimal(str(openai["cost"]))) == (3, Decimal("0.000006"))
    assert [len(vector) for vector in gemini["embeddings"]] == [3]
    assert tuned["status"] == "succeeded"
    assert (claude["status"], claude["error"]["code"]) == ("failed", "untranslatable")
    assert "claude does chat only, not embeddings" in claude["error"]["message"]
    assert (later["error"]["code"], later["response"]) == ("untranslatable", None)
    assert "background" in later["error"]["message"]
    calls = sandbox.log()
    assert len(calls) == len(LINES) - 2  # what can't be sent costs no call
    assert {call["status"] for call in calls} == {200}
