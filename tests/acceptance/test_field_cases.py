"""Every case from the field, replayed by the real command over HTTP; the file of each case states what is right.

`field_cases/README.md` describes the files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.replay import CASES, Replay, parts_of, replaying
from tests.servers import wait_for

pytestmark = pytest.mark.full

Play = Callable[..., Replay]


@pytest.fixture
def play(tmp_path: Path, environment: dict[str, str]) -> Iterator[Play]:
    """Lays out a case (and its part) in the test's folder."""
    with contextlib.ExitStack() as stack:

        def begin(name: str, part: str = "") -> Replay:
            return stack.enter_context(replaying(name, part, tmp_path, environment))

        yield begin


def with_parts(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("part", parts_of(name))


def test_every_case_has_a_test() -> None:
    played = Path(__file__).read_text()
    assert [path.stem for path in CASES.glob("*.json") if f'"{path.stem}"' not in played] == []


def cost_of(row: dict[str, Any]) -> Decimal:
    return Decimal(str(row["cost"]))


# Usage and money


@pytest.mark.parametrize("name", ["moonshot-cache", "deepseek-cache"])
def test_cache_hits_are_priced_as_cached(play: Play, name: str) -> None:
    replay = play(name)
    assert replay.run() == 0, replay.output
    row = replay.results()["1"]
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (1000, 900, 100)
    assert cost_of(row) == Decimal("0.00039")


def test_moonshot_stream_usage(play: Play) -> None:
    replay = play("moonshot-stream-usage")
    assert replay.run() == 0, replay.output
    row = replay.results()["1"]
    assert (row["input_tokens"], row["output_tokens"], cost_of(row)) == (1000, 100, Decimal("0.0012"))
    assert row["text"] == "Hi"


def test_xai_reasoning(play: Play) -> None:
    replay = play("xai-reasoning")
    assert replay.run() == 0, replay.output
    row = replay.results()["1"]
    assert (row["output_tokens"], row["cached_tokens"], cost_of(row)) == (103, 6, Decimal("0.0002326"))


@with_parts("perplexity-billed-usage")
def test_perplexity_billed_usage(play: Play, part: str) -> None:
    replay = play("perplexity-billed-usage", part)
    assert replay.run() == 0, replay.output
    row, status = replay.results()["1"], replay.status()
    marked = row["cost"] is None or json.dumps(status).find('"unpriced_tokens": 0') < 0
    if part == "tokens":
        assert row["output_tokens"] >= 201_110 or marked
    else:
        assert marked or cost_of(row) >= Decimal("0.006")


def test_cost_cap(play: Play) -> None:
    replay = play("cost-cap")
    assert replay.run() == 3, replay.output
    succeeded = [job for job in replay.jobs().values() if job["status"] == "succeeded"]
    assert len(succeeded) == len(replay.calls()) <= 25
    assert len(succeeded) >= 20
    assert replay.batches()[0]["status"] == "paused"


@with_parts("parquet-identity")
def test_parquet_identity(play: Play, part: str) -> None:
    replay = play("parquet-identity", part)
    for _ in range(replay.case["times"]):
        assert replay.run() == 0, replay.output
    assert len(replay.batches()) == 1


# Answers


def test_openrouter_broke_off(play: Play) -> None:
    replay = play("openrouter-broke-off")
    replay.run()
    jobs = replay.jobs()
    for custom_id, job in jobs.items():
        if job["status"] == "succeeded":
            assert len(replay.attempts(custom_id)) == 2, custom_id
    results = replay.results()
    assert results["1"]["text"] == "after retry"
    assert jobs["2"]["status"] == "failed"
    assert results["2"]["text"] is None
    assert "half" not in json.dumps([results[one] for one in ("1", "3", "4")])
    assert (results["3"]["text"], results["4"]["text"]) == ("whole answer", "whole answer")
    batch = next(line for line in results.values() if "custom_id" in line)
    assert batch["response"]["body"]["choices"][0]["message"]["content"] == "whole"
    first = replay.attempts("4")[0]
    assert (first["outcome"], first["input_tokens"], first["output_tokens"]) == ("failed", 1000, 100)


def test_reasoning_without_answer(play: Play) -> None:
    replay = play("reasoning-without-answer")
    assert replay.run() == 0, replay.output
    results = replay.results()
    assert (results["1"]["text"], results["2"]["text"]) == ("second", "second")
    output = results["3"]["response"]["body"]["output"]
    assert output[0]["content"][0]["text"] == "second"
    for custom_id in ("1", "2", "3"):
        first, _ = replay.attempts(custom_id)
        assert first["output_tokens"] in (50, 100)
        assert first["cost_nanos"] > 0


def test_gemini_parallel_tool_calls(play: Play) -> None:
    replay = play("gemini-parallel-tool-calls")
    assert replay.run() == 0, replay.output
    assert replay.results()["1"]["tool_calls"] == [
        {"id": "a", "name": "weather", "arguments": {"c": "X"}},
        {"id": "b", "name": "time", "arguments": {"z": "Y"}},
    ]


def test_refusal(play: Play) -> None:
    replay = play("refusal")
    assert replay.run() == 1, replay.output
    results = replay.results()
    assert results["n"]["error"] == {"code": "refusal", "message": "I'm sorry, I can't assist with that."}
    assert results["e"]["error"] == {"code": "refusal", "message": "I can't help with that."}
    assert (results["n"]["output_tokens"], results["e"]["output_tokens"]) == (100, 100)
    assert len(replay.calls()) == 2


def test_gemini_not_a_success(play: Play) -> None:
    replay = play("gemini-not-a-success")
    assert replay.run() == 0, replay.output
    assert {row["text"] for row in replay.results().values()} == {"second try"}
    assert len(replay.calls()) == 6


def test_gemini_blocked(play: Play) -> None:
    replay = play("gemini-blocked")
    assert replay.run() == 1, replay.output
    results = replay.results()
    assert results["1"]["error"]["code"] == "recitation"
    assert results["2"]["error"]["code"] == "prohibited_content"
    assert (results["1"]["input_tokens"], results["2"]["input_tokens"]) == (10, 10)


# Accounts and refusals


@with_parts("openrouter-error-in-200")
def test_openrouter_error_in_200(play: Play, part: str) -> None:
    replay = play("openrouter-error-in-200", part)
    code = replay.run()
    if part == "no credits":
        replay.assert_blocked(code, "Insufficient credits")
        assert list(replay.quarantined()) == ["or/or-1"]
    else:
        assert code == 0, replay.output
        assert {row["text"] for row in replay.results().values()} == {"after retry"}


def test_claude_credit(play: Play) -> None:
    replay = play("claude-credit")
    replay.assert_blocked(replay.run(), "Your credit balance is too low")
    assert list(replay.quarantined()) == ["claude/claude-1"]


def test_plain_402(play: Play) -> None:
    replay = play("plain-402")
    replay.assert_blocked(replay.run(), "Insufficient Balance")
    assert list(replay.quarantined()) == ["deepseek/deepseek-1"]


@with_parts("litellm-budget")
def test_litellm_budget(play: Play, part: str) -> None:
    replay = play("litellm-budget", part)
    code = replay.run()
    if part == "route":
        assert code == 0, replay.output
        assert replay.results()["1"]["text"] == "from big"
    else:
        replay.assert_blocked(code, "Budget has been exceeded!")
    assert replay.quarantined()["proxy/proxy-1"]["reason"].endswith("Max budget: 10.0")


def test_balance_as_429(play: Play) -> None:
    replay = play("balance-as-429")
    replay.assert_blocked(replay.run(), "insufficient balance", "Insufficient balance")
    assert sorted(replay.quarantined()) == ["moonshot/moonshot-1", "zhipu/zhipu-1"]
    assert len(replay.calls()) <= 4


def test_request_too_large(play: Play) -> None:
    replay = play("request-too-large")
    assert replay.run() == 1, replay.output
    for row in replay.results().values():
        assert "Request too large for" in row["error"]["message"]
        assert row["attempts"] == 1


@with_parts("one-flagged-prompt")
def test_one_flagged_prompt(play: Play, part: str) -> None:
    replay = play("one-flagged-prompt", part)
    assert replay.run() == 1, replay.output
    failed = [row for row in replay.results().values() if row["status"] == "failed"]
    assert len(failed) == 1
    assert "Your input was flagged" in failed[0]["error"]["message"]
    assert failed[0]["attempts"] == 1
    assert {call.provider for call in replay.calls()} == {"openrouter"}
    assert len(replay.calls()) == len(replay.jobs())


@with_parts("groq-498")
def test_groq_498(play: Play, part: str) -> None:
    replay = play("groq-498", part)
    assert replay.run() == 0, replay.output
    assert replay.results()["1"]["text"] == ("after 498" if part == "again" else "from big")


def test_error_body_of_another_form(play: Play) -> None:
    replay = play("error-body-of-another-form")
    assert replay.run() == 1, replay.output
    messages = {custom_id: row["error"]["message"] for custom_id, row in replay.results().items()}
    assert "Extra inputs are not permitted" in messages["1"]
    assert "seed" in messages["1"]
    assert "AiError: max_tokens too large" in messages["2"]
    assert "The provided model identifier is invalid." in messages["3"]
    assert len(replay.calls()) == 3


@with_parts("wrong-base-url")
def test_wrong_base_url(play: Play, part: str) -> None:
    replay = play("wrong-base-url", part)
    process = replay.start()
    words = "Unexpected endpoint or method" if part == "LM Studio" else "Open WebUI"

    def shown() -> bool:
        output = replay.read_output()
        return words in output or "base_url" in output

    wait_for(shown, "the reason to be shown", 60)
    if process.poll() is None:
        replay.stop(process)
    assert max(len(replay.attempts(one)) for one in replay.jobs()) < 10


# Limits and waits


def waits(replay: Replay) -> list[float]:
    """Returns the seconds between the first two calls of each provider, in the case's order."""
    found = []
    for provider in replay.case["providers"]:
        first, second = replay.calls(provider)
        found.append(second.at - first.at)
    return found


def test_retry_after_forms(play: Play) -> None:
    replay = play("retry-after-forms")
    assert replay.run() == 0, replay.output
    date, millis, reset = waits(replay)
    assert date >= 2.9  # HTTP dates are whole seconds
    assert millis >= 2.5
    assert reset >= 3.0
    assert millis < 60


def test_retry_in_words(play: Play) -> None:
    replay = play("retry-in-words")
    assert replay.run() == 0, replay.output
    openai, apim = waits(replay)
    assert openai >= 7.0
    assert apim >= 6.0


def test_limit_of_one_model(play: Play) -> None:
    replay = play("limit-of-one-model")
    assert replay.run() == 0, replay.output
    for provider in replay.case["providers"]:
        calls = replay.calls(provider)
        refused = [call for call in calls if call.status == 429]
        small = [call for call in calls if call.model == "small"]
        assert len(small) == 8
        again = [call for call in calls if call.model == "big" and call.at >= refused[0].at + 12]
        assert again, "big was never asked again"
        assert all(call.at < again[0].at for call in small)
        # all four leave together; once the first is refused, nothing more is asked of big before its time
        assert not [call for call in calls if call.model == "big" and refused[0].at + 2 < call.at < again[0].at]


def test_gemini_day_of_one_model(play: Play) -> None:
    replay = play("gemini-day-of-one-model")
    process = replay.start()
    flash = [line["id"] for line in replay.case["lines"] if line["model"] == "gemini-2.5-flash"]
    others = [line["id"] for line in replay.case["lines"] if line["model"] == "gemini-2.5-pro"]

    def done() -> bool:
        jobs = replay.jobs() if (replay.folder / "home" / "truckllm.db").exists() and replay.calls() else {}
        return bool(jobs) and all(jobs[one]["status"] == "succeeded" for one in flash)

    wait_for(done, "flash to go on", 60)
    wait_for(lambda: "gemini-2.5-pro" in replay.read_output(), "the rest to be shown", 60)
    if process.poll() is None:
        replay.stop(process)
    assert {replay.jobs()[one]["status"] for one in others} == {"queued"}
    assert replay.quarantined() == {}
    assert len([call for call in replay.calls() if "pro" in call.path]) <= len(others)


def test_wait_of_a_day(play: Play) -> None:
    tomorrow = [(datetime.now(UTC) + timedelta(days=1, seconds=late)).date().isoformat() for late in (0, 300)]
    replay = play("wait-of-a-day")
    process = replay.start()

    def shown(text: str) -> bool:
        return any(day in text for day in tomorrow) or "24 h" in text

    wait_for(lambda: shown(replay.read_output()), "run to show the wait", 60)
    assert shown(replay.command("status", "1").stdout)
    if process.poll() is None:
        replay.stop(process)
    assert {job["status"] for job in replay.jobs().values()} == {"queued"}


# Names


def test_model_name_with_a_slash(play: Play) -> None:
    replay = play("model-name-with-a-slash")
    assert replay.run() == 0, replay.output
    assert {(call.provider, call.authorization) for call in replay.calls()} == {("openrouter", "Bearer sk-openrouter")}
    assert {call.model for call in replay.calls()} == {"openai/gpt-4o", "anthropic/claude-sonnet-4"}


# Inputs


def test_cookbook_embeddings(play: Play) -> None:
    replay = play("cookbook-embeddings")
    code = replay.run()
    assert {call.path for call in replay.calls()} <= {"/v1/embeddings"}
    if code == 2:
        assert "embed" in replay.output
    else:
        assert code == 0, replay.output
        assert sorted(call.body["input"] for call in replay.calls()) == ["0\n", "1\n"]


def test_alpaca(play: Play) -> None:
    replay = play("alpaca")
    if replay.run() == 2:
        replay.assert_nothing_was_sent()
        assert "instruction" in replay.output
        return
    for call in replay.calls():
        assert not {"instruction", "output"} & set(call.body)
        assert call.prompt.strip()


@with_parts("excel-sep-line")
def test_excel_sep_line(play: Play, part: str) -> None:
    replay = play("excel-sep-line", part)
    assert replay.run() == 0, replay.output
    assert sorted(call.prompt for call in replay.calls()) == ["bye", "hello"]
    assert sorted(replay.results()) == ["1", "2"]


@with_parts("empty-csv-rows")
def test_empty_csv_rows(play: Play, part: str) -> None:
    replay = play("empty-csv-rows", part)
    replay.run()
    assert {call.prompt for call in replay.calls()} <= {"Q: hello", "hello"}


@with_parts("line-ends-inside-text")
def test_line_ends_inside_text(play: Play, part: str) -> None:
    replay = play("line-ends-inside-text", part)
    assert replay.run() == 0, replay.output
    prompts = [call.prompt for call in replay.calls()]
    if part == "jsonl":
        assert sorted(prompts) == ["second", "x\u2028y\u0085z\u2029q"]
        assert sorted(replay.results()) == ["a", "b"]
    else:
        assert prompts == ["a\u0085b\u2028c"]
    assert {row["text"] for row in replay.results().values()} == {"x\u2028y\u0085z\u2029q"}


@with_parts("ids")
def test_ids(play: Play, part: str) -> None:
    replay = play("ids", part)
    code = replay.run()
    if part == "number":
        assert code == 0, replay.output
        assert list(replay.results()) == ["7"]
        return
    assert code == 2
    replay.assert_nothing_was_sent()
    assert ("line 3" if part == "twice" else "line 1") in replay.output


@with_parts("pandas-json")
def test_pandas_json(play: Play, part: str) -> None:
    replay = play("pandas-json", part)
    code = replay.run()
    if part == "nulls":
        assert code == 0, replay.output
        assert {call.prompt for call in replay.calls()} == {"a/b", "c"}
    elif part == "float id" and code == 0:
        assert sorted(replay.results()) == ["1", "2"]
    else:
        assert code == 2
        replay.assert_nothing_was_sent()
        assert f"line {1 if part == 'float id' else 2}" in replay.output


def test_pandas_csv_index(play: Play) -> None:
    replay = play("pandas-csv-index")
    assert replay.run() == 0, replay.output
    assert sorted(call.prompt for call in replay.calls()) == ['a, "quoted" one\nsecond line', "hello"]
    assert [row["metadata"]["label"] for row in replay.results().values()] == ["pos", "neg"]
