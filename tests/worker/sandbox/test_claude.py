"""The sandbox's Claude: shapes of replies, streams and refusals."""

import json
from typing import Any

import pytest

from tests.worker.sandbox.conftest import KEY, Play


def test_a_message_has_the_shape_and_usage_of_the_real_one(play: Play) -> None:
    played = play(usage_extras=True)
    for text in ("one", "two", "three", "four", "five", "six"):  # enough to meet cached, written and neither
        body, row = played.ask("claude", text * 20).json(), played.rows()[-1]
        assert (body["type"], body["role"], body["stop_reason"]) == ("message", "assistant", "end_turn")
        usage = body["usage"]
        parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        assert sum(usage[part] for part in parts) == row["input_tokens"]
        assert usage["cache_read_input_tokens"] == row["cached_tokens"]
        assert usage["cache_creation_input_tokens"] == row["cache_write_tokens"]
        assert usage["output_tokens"] == row["output_tokens"]
        assert usage["output_tokens_details"]["thinking_tokens"] == row["reasoning_tokens"]
    assert any(row["cached_tokens"] for row in played.rows())


def test_max_tokens_ends_a_reply(play: Play) -> None:
    body = play().ask("claude", max_tokens=2).json()
    assert body["stop_reason"] == "max_tokens"
    assert body["usage"]["output_tokens"] == 2


def test_a_stream_tells_the_same_message_in_events(play: Play) -> None:
    played = play()
    whole = played.ask("claude").json()
    answer = played.ask("claude", streamed=True)
    events = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'Unexpected role "system"'),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages.0.role: Input should be 'user' or 'assistant'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "user", "content": ""}]}, "must have non-empty content"),
        ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, "does not match any of the expected tags"),
        ({"foo": 1}, "foo: Extra inputs are not permitted"),
        ({"temperature": 1.5}, "temperature: range: 0..1"),
        ({"stream": 1}, "stream: Input should be a valid boolean"),
    ],
)
def test_a_wrong_body_is_a_400_in_its_own_words(play: Play, change: dict[str, Any], words: str) -> None:
    answer = play().ask("claude", **change)
    body = answer.json()
    assert answer.status_code == 400
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]
    assert body["request_id"].startswith("req_")


@pytest.mark.parametrize("field", ["model", "max_tokens", "messages"])
def test_a_missing_field_is_named(play: Play, field: str) -> None:
    played = play()
    request = played.request("claude")
    del request["json"][field]
    assert played.client.request(**request).json()["error"]["message"] == f"{field}: Field required"


@pytest.mark.parametrize(("version", "temperature", "status"), [
    ("2023-06-01", 0.5, 200), ("2026-10-21", 0.5, 400), ("2026-10-21", None, 400), ("2020-01-01", 0.5, 400), ("", 0.5, 400),
])  # fmt: skip
def test_the_version_header_is_required_and_its_newest_takes_no_sampling(
    play: Play, version: str, temperature: float | None, status: int
) -> None:
    played = play()
    request = played.request("claude", temperature=temperature)
    request["headers"]["anthropic-version"] = version
    assert played.client.request(**request).status_code == status


def test_both_ways_to_send_a_key_work_and_x_api_key_wins(play: Play) -> None:
    played = play(accounts=[{"provider": "claude", "key": KEY}])
    statuses = []
    for headers in (
        {"authorization": f"Bearer {KEY}"},
        {"x-api-key": KEY, "authorization": "Bearer wrong"},
        {"x-api-key": "wrong", "authorization": f"Bearer {KEY}"},
        {},
    ):
        request = played.request("claude") | {"headers": headers | {"anthropic-version": "2023-06-01"}}
        answer = played.client.request(**request)
        statuses.append(answer.status_code)
    assert statuses == [200, 200, 401, 401]
    assert answer.json()["error"]["type"] == "authentication_error"


def test_missing_and_forbidden_models_are_told_apart(play: Play) -> None:
    played = play()
    missing, forbidden = played.ask("claude", model="missing-x"), played.ask("claude", model="forbidden-x")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert missing.json()["error"]["message"] == "model: missing-x"
    assert (forbidden.status_code, forbidden.json()["error"]["type"]) == (403, "permission_error")


def test_models_are_listed(play: Play) -> None:
    played = play(models={"claude": ["claude-a", "claude-b"]})
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    body = played.client.get(f"{played.box.url}/claude/v1/models", headers=headers).json()
    assert [model["id"] for model in body["data"]] == ["claude-a", "claude-b"]
    assert (body["first_id"], body["last_id"], body["has_more"]) == ("claude-a", "claude-b", False)


def test_a_body_over_32_mib_is_a_413(play: Play) -> None:
    answer = play().ask("claude", "x" * (32 * 1024 * 1024))
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
