"""Every feature of the guide, end to end: one `truckllm run` asks for all of them at once; each test looks at one in results, ledger and log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from models.database import Database
from models.tables import attempts, jobs
from tests.acceptance import guide_lines as guide
from tests.servers import TRUCKLLM, SandboxProcess
from worker.sandbox.quotas import key_name

TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
Row = dict[str, Any]


class Ran:
    """What came of the run: results, calls in the ledger and calls in the sandbox's log, each by the line's id."""

    def __init__(self, folder: Path, log: list[Row]) -> None:
        self.rows: dict[str, Row] = {}
        for line in (folder / "all.results.jsonl").read_text().splitlines():
            row = json.loads(line)
            self.rows[row.get("custom_id") or row.get("key") or row["id"]] = row
        database = Database(f"sqlite:///{folder}/home/truckllm.db")
        columns = [jobs.c.custom_id, jobs.c.status, *attempts.c]
        query = sa.select(*columns).join(attempts, attempts.c.job_id == jobs.c.id).order_by(attempts.c.id)
        with database.read() as connection:
            told = [dict(row) for row in connection.execute(query).mappings()]
        database.close()
        self.ledger = {name: [row for row in told if row["custom_id"] == name] for name in self.rows}
        by_sha: dict[tuple[str, str], list[Row]] = {}
        for call in log:
            by_sha.setdefault((call["provider"], call["prompt_sha"] or ""), []).append(call)
        self.log = {name: by_sha.pop(sha, []) for name, sha in guide.shas().items()}
        # a call under another's project is turned away before its prompt is read
        self.log["simple/astray"] = by_sha.pop(("openai", ""), []) + self.log["simple/astray"]
        self.strangers = by_sha

    def body(self, name: str) -> Any:
        """The provider's own reply to a line that succeeded."""
        row = self.rows[name]
        kind = name.partition("/")[0]
        if kind == "openai":
            return row["response"]["body"]
        return row["response"] if kind == "gemini" else row["result"]["message"]

    def call(self, name: str) -> Row:
        """The only call of a line, as the ledger has it."""
        (row,) = self.ledger[name]
        return row


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("guide")
    (folder / "sandbox.json").write_text(json.dumps(guide.sandbox_settings()))
    command = [sys.executable, "-m", "worker.sandbox", "--port", "0", "--settings", str(folder / "sandbox.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            sandbox = SandboxProcess(process, process.stdout.readline().split()[2])
            (folder / "truckllm.yaml").write_text(yaml.safe_dump(guide.config(sandbox.url)))
            (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in guide.all_lines()))
            kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUCKLLM_")}
            done = subprocess.run(
                [*TRUCKLLM, "run", "all.jsonl"],
                cwd=folder,
                env={**kept, "TRUCKLLM_HOME": str(folder / "home")},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 1, done.stderr
            count = len(guide.all_lines())
            assert f"{count - len(guide.FAILED)} of {count} jobs succeeded, 3 failed" in done.stdout, done.stdout
            yield Ran(folder, [row for row in sandbox.log() if not row["path"].endswith("/models")])
        finally:
            process.terminate()


# All of them


def test_every_line_that_asks_for_a_feature_is_answered_and_nothing_else_is_called(ran: Ran) -> None:
    failed = {name for name, calls in ran.ledger.items() if not any(row["outcome"] == "succeeded" for row in calls)}
    assert failed == guide.FAILED
    assert ran.strangers == {}
    again = {name: len(calls) for name, calls in ran.log.items() if len(calls) != 1}
    assert again == {
        "openai/stream-cut": 2,
        "openai/stream-stalled": 2,
        "simple/astray": 2,
        "simple/sampled-refused": 0,
    }


def test_the_ledger_holds_the_tokens_of_every_feature_as_they_were_billed(ran: Ran) -> None:
    told = {
        name: [[row[kind] for kind in TOKENS] for row in rows if row["outcome"] != "unknown"]
        for name, rows in ran.ledger.items()
    }
    billed = {
        name: [[row[kind] for kind in TOKENS] for row in rows if row["billed"] and row["sent_whole"]]
        for name, rows in ran.log.items()
    }
    refused = [[None] * 5]  # a key that is turned away tells no tokens
    assert told == {**billed, "simple/astray": refused + billed["simple/astray"]}


def test_every_call_costs_what_its_tokens_tiers_and_fees_come_to(ran: Ran) -> None:
    prices = {
        name: Decimal(price) for name, price in guide.PRICING.items() if isinstance(price, str) and price != "USD"
    }
    fees = {name: Decimal(price) for name, price in guide.PRICING["fees"].items()}
    for name, calls in ran.log.items():
        if not calls:
            continue
        seen, (row,) = calls[-1], [row for row in ran.ledger[name] if row["cost_nanos"] is not None]
        given = "0.001" if row["key_id"] == "two-d" else "0.002"
        fresh = seen["input_tokens"] - seen["cached_tokens"] - seen["cache_write_tokens"]
        write = "cache_write_1h_token_cost" if name == "claude/cache-hour" else "cache_write_token_cost"
        factor = Decimal("0.5") if name in ("openai/flex", "openai/responses") else Decimal(1)
        tokens = (
            fresh * Decimal(given)
            + seen["cached_tokens"] * prices["cached_token_cost"]
            + seen["cache_write_tokens"] * prices[write]
            + seen["output_tokens"] * prices["output_token_cost"]
        )
        uses = sum(number * fees[fee] for fee, number in seen["fees"].items())
        assert (name, Decimal(row["cost_nanos"]) / 10**9, row["currency"]) == (
            name,
            (tokens * factor + uses) / 1000,
            "USD",
        )
    assert {name for name, calls in ran.log.items() if calls and calls[-1]["fees"]} == {
        "openai/responses-hosted",
        "gemini/search",
        "claude/search",
    }


def test_keys_are_rotated_before_their_limits_are_reached(ran: Ran) -> None:
    names = [name for name in ran.log if name.startswith("simple/rotated-")]
    calls = [row for name in names for row in ran.log[name]]
    assert [row["status"] for row in calls] == [200] * len(names)  # no call was one too many
    used = Counter(ran.call(name)["key_id"] for name in names)
    assert set(used) == {"two-d", "two-e"}
    assert min(used.values()) >= 10  # the dearer one does what the cheaper one may not do in time


# OpenAI


def test_openai_chat_responses_completions_and_embeddings_go_to_their_own_endpoints(ran: Ran) -> None:
    paths = {name: ran.log[f"openai/{name}"][0]["path"].removeprefix("/openai/v1") for name in guide.OPENAI}
    assert (paths["chat"], paths["responses"]) == ("/chat/completions", "/responses")
    assert (paths["completions"], paths["embeddings"]) == ("/completions", "/embeddings")
    assert ran.body("openai/chat")["choices"][0]["message"]["content"]
    assert ran.body("openai/responses")["status"] == "completed"
    assert [choice["index"] for choice in ran.body("openai/completions")["choices"]] == [0, 1]
    assert [len(entry["embedding"]) for entry in ran.body("openai/embeddings")["data"]] == [8, 8]
    assert [len(vector) for vector in ran.rows["simple/openai-embed"]["embeddings"]] == [8]


@pytest.mark.parametrize(
    ("name", "form"),
    [("stream", "chat.completion"), ("responses-streamed", "response"), ("completions-streamed", "text_completion")],
)
def test_an_openai_stream_is_assembled_and_its_final_usage_booked(ran: Ran, name: str, form: str) -> None:
    body, call = ran.body(f"openai/{name}"), ran.call(f"openai/{name}")
    assert body["object"] == form
    assert body["usage"]["total_tokens"] == call["input_tokens"] + call["output_tokens"] > 0


@pytest.mark.parametrize("name", ["stream-cut", "stream-stalled"])
def test_a_stream_that_is_cut_or_stalls_is_no_success_but_asked_again(ran: Ran, name: str) -> None:
    first, second = ran.ledger[f"openai/{name}"]
    assert (first["outcome"], second["outcome"]) == ("unknown", "succeeded")
    assert [row["sent_whole"] for row in ran.log[f"openai/{name}"]] == [False, True]
    assert ran.body(f"openai/{name}")["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["tools", "tools-streamed"])
def test_openai_calls_a_function(ran: Ran, name: str) -> None:
    (choice,) = ran.body(f"openai/{name}")["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], set(json.loads(call["function"]["arguments"]))) == ("get_w", guide.FIELDS)
    assert choice["finish_reason"] == "tool_calls"


def test_openai_responses_call_a_function(ran: Ran) -> None:
    (call,) = [item for item in ran.body("openai/responses-tools")["output"] if item["type"] == "function_call"]
    assert set(json.loads(call["arguments"])) == guide.FIELDS


@pytest.mark.parametrize("name", ["openai/tool-results", "claude/tool-results"])
def test_results_of_tools_go_back_to_the_model(ran: Ran, name: str) -> None:
    assert len(ran.log[name]) == 1  # with calls and results in its prompt, by the digest
    assert ran.call(name)["outcome"] == "succeeded"


@pytest.mark.parametrize(
    "name",
    [
        "openai/vision-url",
        "openai/vision-inline",
        "gemini/image",
        "gemini/audio",
        "gemini/file",
        "gemini/video",
        "claude/image",
        "claude/image-url",
        "claude/document",
    ],
)
def test_images_sound_and_files_reach_the_model_beside_the_text(ran: Ran, name: str) -> None:
    (seen,) = ran.log[name]  # found by the digest of all that the prompt holds, the data included
    assert (seen["status"], seen["billed"]) == (200, True)
    assert ran.call(name)["outcome"] == "succeeded"


@pytest.mark.parametrize("name", ["openai/schema", "openai/responses", "gemini/schema", "claude/schema"])
def test_an_answer_by_a_json_schema_fits_it(ran: Ran, name: str) -> None:
    body = ran.body(name)
    if name == "openai/schema":
        text = body["choices"][0]["message"]["content"]
    elif name == "openai/responses":
        (text,) = [item["content"][0]["text"] for item in body["output"] if item["type"] == "message"]
    else:
        text = body["content"][0]["text"] if "content" in body else body["candidates"][0]["content"]["parts"][0]["text"]
    answer = json.loads(text)
    assert set(answer) == guide.FIELDS
    assert isinstance(answer["warm"], bool)


def test_a_fine_tuned_model_is_asked_for_by_its_whole_name(ran: Ran) -> None:
    for name in ("openai/fine-tuned", "simple/ft"):
        assert [row["model"] for row in ran.log[name]] == ["ft:gpt-4o-mini:acme::abc123"]
        assert ran.call(name)["requested_model"] == "ft:gpt-4o-mini:acme::abc123"


def test_openais_reasoning_models_take_their_own_parameters_and_tell_their_reasoning(ran: Ran) -> None:
    details = ran.body("openai/reasoning")["usage"]["completion_tokens_details"]
    assert ran.call("openai/reasoning")["reasoning_tokens"] == details["reasoning_tokens"] > 0
    # the simple line says max_tokens, which these models refuse by that name
    assert ran.call("simple/reasoning")["reasoning_tokens"] > 0
    (thought,) = [item for item in ran.body("openai/responses")["output"] if item["type"] == "reasoning"]
    assert thought["summary"][0]["text"]


@pytest.mark.parametrize("name", ["openai/flex", "openai/responses"])
def test_the_service_tier_that_is_asked_for_serves_the_call(ran: Ran, name: str) -> None:
    assert ran.body(name)["service_tier"] == "flex"


def test_openai_is_told_organization_and_project_of_the_provider_or_the_key(ran: Ran) -> None:
    first, second = ran.log["simple/astray"]
    assert (first["status"], first["key_id"]) == (401, key_name(guide.SECRETS[1]))  # the project isn't that key's
    assert (second["status"], second["key_id"]) == (200, key_name(guide.SECRETS[2]))
    assert [row["key_id"] for row in ran.ledger["simple/astray"]] == ["astray-1", "astray-2"]


def test_openais_hosted_tools_search_and_compute_and_their_fees_are_billed(ran: Ran) -> None:
    items = [item["type"] for item in ran.body("openai/responses-hosted")["output"]]
    searches = items.count("web_search_call")
    assert searches > 0
    assert items.count("code_interpreter_call") == 1
    (seen,) = ran.log["openai/responses-hosted"]
    assert seen["fees"] == {"web_search_requests": searches, "code_interpreter_sessions": 1}


# Gemini


def test_gemini_answers_text_under_a_system_instruction(ran: Ran) -> None:
    (candidate,) = ran.body("gemini/text")["candidates"]
    assert candidate["content"]["parts"][0]["text"].startswith(ran.log["gemini/text"][0]["prompt_sha"][:8])


def test_gemini_tells_how_much_of_a_prompt_was_image_sound_and_video(ran: Ran) -> None:
    def kinds(name: str) -> set[str]:
        return {one["modality"] for one in ran.body(name)["usageMetadata"]["promptTokensDetails"]}

    assert (kinds("gemini/image"), kinds("gemini/audio")) == ({"TEXT", "IMAGE"}, {"TEXT", "AUDIO"})
    assert kinds("gemini/video") == {"TEXT", "VIDEO"}


def test_gemini_calls_a_function(ran: Ran) -> None:
    (part,) = ran.body("gemini/tools")["candidates"][0]["content"]["parts"]
    assert (part["functionCall"]["name"], set(part["functionCall"]["args"])) == ("get_w", guide.FIELDS)


def test_gemini_grounds_its_answer_with_google_search_and_the_queries_are_billed(ran: Ran) -> None:
    told = ran.body("gemini/search")["candidates"][0]["groundingMetadata"]
    assert told["groundingChunks"][0]["web"]["uri"]
    assert ran.log["gemini/search"][0]["fees"] == {"web_search_requests": len(told["webSearchQueries"])}


def test_gemini_executes_code_and_what_it_put_out_counts_as_input(ran: Ran) -> None:
    code, result, text = ran.body("gemini/code")["candidates"][0]["content"]["parts"]
    assert code["executableCode"]["language"] == "PYTHON"
    assert result["codeExecutionResult"]["outcome"] == "OUTCOME_OK"
    assert text["text"]
    usage = ran.body("gemini/code")["usageMetadata"]
    assert usage["toolUsePromptTokenCount"] > 0
    assert ran.call("gemini/code")["input_tokens"] == usage["promptTokenCount"] + usage["toolUsePromptTokenCount"]


def test_gemini_thinks_and_thoughts_are_booked_as_output(ran: Ran) -> None:
    thought, text = ran.body("gemini/thinking")["candidates"][0]["content"]["parts"]
    assert (thought["thought"], "thought" in text) == (True, False)
    usage, call = ran.body("gemini/thinking")["usageMetadata"], ran.call("gemini/thinking")
    assert call["reasoning_tokens"] == usage["thoughtsTokenCount"] > 0
    assert call["output_tokens"] == usage["thoughtsTokenCount"] + usage["candidatesTokenCount"]


def test_gemini_makes_vectors(ran: Ran) -> None:
    assert [len(vector) for vector in ran.rows["simple/gemini-embed"]["embeddings"]] == [8, 8]
    assert ran.log["simple/gemini-embed"][0]["path"].endswith(":batchEmbedContents")


def test_a_gemini_stream_is_assembled(ran: Ran) -> None:
    assert ran.log["simple/gemini-stream"][0]["path"].endswith(":streamGenerateContent")
    row = ran.rows["simple/gemini-stream"]
    assert (row["finish_reason"], row["text"][-1]) == ("STOP", ".")


def test_a_prompt_that_gemini_blocks_is_an_error_with_its_reason_and_billed(ran: Ran) -> None:
    row, call = ran.rows["gemini/blocked"], ran.call("gemini/blocked")
    assert "response" not in row
    assert row["error"]["message"] == "the prompt was blocked"
    assert row["error"]["details"][0]["reason"] == "safety"
    assert (call["outcome"], call["error_code"]) == ("rejected", "safety")
    assert call["cost_nanos"] > 0


# Claude


def test_claude_answers_under_a_system_prompt(ran: Ran) -> None:
    (block,) = ran.body("claude/system")["content"]
    assert block["text"].startswith(ran.log["claude/system"][0]["prompt_sha"][:8])


@pytest.mark.parametrize("name", ["tools", "tools-streamed"])
def test_claude_calls_a_tool(ran: Ran, name: str) -> None:
    (block,) = ran.body(f"claude/{name}")["content"]
    assert (block["type"], block["name"], set(block["input"])) == ("tool_use", "get_w", guide.FIELDS)


@pytest.mark.parametrize("name", ["extended", "extended-streamed", "adaptive"])
def test_claude_thinks_within_a_budget_or_as_it_sees_fit(ran: Ran, name: str) -> None:
    thought, text = ran.body(f"claude/{name}")["content"]
    assert (thought["type"], text["type"]) == ("thinking", "text")
    assert thought["thinking"]
    assert thought["signature"]
    told = ran.body(f"claude/{name}")["usage"]["output_tokens_details"]["thinking_tokens"]
    assert ran.call(f"claude/{name}")["reasoning_tokens"] == told > 0


def test_claude_searches_the_web_and_each_search_is_billed(ran: Ran) -> None:
    body = ran.body("claude/search")
    kinds = [block["type"] for block in body["content"]]
    assert kinds.count("web_search_tool_result") == body["usage"]["server_tool_use"]["web_search_requests"] > 0
    assert body["content"][-1]["citations"]


def test_claude_reads_a_prompt_of_200_thousand_tokens(ran: Ran) -> None:
    call = ran.call("claude/book")
    assert (call["outcome"], call["input_tokens"] > 200_000) == ("succeeded", True)


def test_what_claude_caches_is_written_once_read_then_and_priced_by_its_time(ran: Ran) -> None:
    calls = [ran.call(f"claude/cache-{name}") for name in "ab"]
    size = max(call["cache_write_tokens"] for call in calls)
    assert size > 2000
    assert sorted((call["cache_write_tokens"], call["cached_tokens"]) for call in calls) == [(0, size), (size, 0)]
    hour, usage = ran.call("claude/cache-hour"), ran.body("claude/cache-hour")["usage"]
    assert hour["cache_write_tokens"] == usage["cache_creation"]["ephemeral_1h_input_tokens"] > 2000


def test_a_claude_stream_is_assembled_and_its_final_usage_booked(ran: Ran) -> None:
    body = ran.body("claude/stream")
    assert (body["stop_reason"], body["content"][0]["text"][-1]) == ("end_turn", ".")
    assert ran.call("claude/stream")["output_tokens"] == body["usage"]["output_tokens"] > 1


def test_a_refusal_of_claude_is_an_error_with_its_explanation_and_billed(ran: Ran) -> None:
    assert ran.rows["claude/refused"]["result"]["error"]["error"]["message"] == "Declined by the sandbox."
    call = ran.call("claude/refused")
    assert (call["outcome"], call["error_code"], call["cost_nanos"] > 0) == ("rejected", "refusal", True)


def test_claudes_version_is_the_configurations_and_decides_about_sampling(ran: Ran) -> None:
    assert ran.call("simple/newest")["outcome"] == "succeeded"
    assert ran.call("simple/sampled-before")["outcome"] == "succeeded"  # the older version takes it
    assert ran.call("simple/sampled-dropped")["outcome"] == "succeeded"  # as this one is told to leave it out
    error = ran.rows["simple/sampled-refused"]["error"]
    assert error["code"] == "untranslatable"
    assert "temperature" in error["message"]
    assert "drop_sampling" in error["message"]
    assert ran.log["simple/sampled-refused"] == []  # and nothing was sent
