"""Lines whose bodies are translated on their way, through `truckllm run` against the sandbox."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import SandboxProcess

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

MODELS = ("gpt-4o-mini", "gemini-3.5-flash", "claude-haiku-4-5")
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_w", "description": "Weather.", "parameters": SCHEMA}}
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
CALLED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is this, and is it raining there?"}, PIXEL, PDF]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_w", "arguments": '{"city":"P"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_simple_line_with_tools_media_and_a_schema_is_answered_by_all_three(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_config(sandbox.url)
    asked = [("talk", {"messages": CALLED}), ("form", {"prompt": "Where?", "response_format": FORM})]
    asked.append(("forced", {"prompt": "Is it raining?", "tool_choice": "required"}))
    write_lines(
        [
            {"id": f"{what}-{model}", "model": model, "max_tokens": 500, "stop": ["END"], "tools": [TOOL], **line}
            for what, line in asked
            for model in MODELS
        ]
    )
    done = cli("run", "prompts.jsonl")
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "prompts.results.jsonl")
    assert [row["status"] for row in found] == ["succeeded"] * 9
    assert all(row["text"] for row in found[:3])
    assert [json.loads(row["text"]).keys() for row in found[3:6]] == [{"city"}] * 3
    assert not any(row["text"] for row in found[6:])  # a call has no text
    assert [row["finish_reason"] for row in found[6:]] == ["tool_calls", "STOP", "tool_use"]


def test_a_body_of_each_dialect_goes_to_each_provider_and_what_cant_is_told_by_its_field(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_config(sandbox.url)
    say = [{"role": "user", "content": "Say hi."}]
    lines: list[dict[str, Any]] = []
    for model in MODELS:
        url = {"method": "POST", "url": "/v1/chat/completions"}
        lines.append({"custom_id": f"o-{model}", **url, "body": {"model": model, "messages": say, "max_tokens": 40}})
        lines.append({"custom_id": f"c-{model}", "params": {"model": model, "max_tokens": 40, "messages": say}})
        parts = {"contents": [{"parts": [{"text": "Say hi."}]}], "generationConfig": {"maxOutputTokens": 40}}
        lines.append({"key": f"g-{model}", "model": model, "request": parts})
    lines.append({"id": "cant", "model": "claude-haiku-4-5", "prompt": "Hi", "logit_bias": {"1": 1}})
    write_lines(lines)
    done = cli("run", "prompts.jsonl")
    assert done.returncode == 1, done.stderr
    *translated, refused = rows(tmp_path / "prompts.results.jsonl")
    for row in translated:
        reply = row.get("response") or row["result"]
        assert "Say hi" not in json.dumps(reply)
        assert reply.get("type") != "errored"
    log = sandbox.log()
    assert len({row["prompt_sha"] for row in log}) == 1  # nine bodies, one prompt
    assert sorted(row["provider"] for row in log) == ["claude"] * 3 + ["gemini"] * 3 + ["openai"] * 3
    assert [row["status"] for row in log] == [200] * 9
    assert (refused["error"]["code"], refused["attempts"]) == ("untranslatable", 0)
    assert "logit_bias can't be translated for Claude" in refused["error"]["message"]


def test_a_route_gives_a_body_to_the_candidate_that_can_take_it(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    candidates = ["claude/claude-haiku-4-5", "openai/gpt-4o-mini"]
    write_config(sandbox.url, routes={"any": {"candidates": candidates, "strategy": "priority"}})
    body = {"messages": [{"role": "user", "content": "Say hi."}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "route": "any"}
    lines = [{"custom_id": f"plain-{n}", **line, "body": body} for n in range(3)]
    lines += [{"custom_id": f"seed-{n}", **line, "body": {**body, "seed": n}} for n in range(3)]
    write_lines(lines)
    done = cli("run", "prompts.jsonl")
    assert done.returncode == 0, done.stderr
    assert all(row["response"]["status_code"] == 200 for row in rows(tmp_path / "prompts.results.jsonl"))
    # Claude knows no seed: those three went to OpenAI, as they are
    assert sorted(row["provider"] for row in sandbox.log()) == ["claude"] * 3 + ["openai"] * 3
