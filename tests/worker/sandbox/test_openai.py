"""The sandbox's OpenAI: shapes of replies, streams and refusals."""

import json
from typing import Any

import pytest

from tests.worker.sandbox.conftest import KEY, Play


def test_a_chat_has_the_shape_and_usage_of_the_real_one(play: Play) -> None:
    played = play(usage_extras=True)
    answer = played.ask("openai", "a prompt")
    body, row = answer.json(), played.row()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert answer.headers["x-request-id"].startswith("req_")
    usage = body["usage"]
    assert usage["prompt_tokens"] == row["input_tokens"]
    assert usage["completion_tokens"] == row["output_tokens"]
    assert usage["total_tokens"] == row["input_tokens"] + row["output_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == row["cached_tokens"]
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == row["cache_write_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == row["reasoning_tokens"]


def test_max_tokens_ends_a_reply_for_length(play: Play) -> None:
    body = play().ask("openai", max_completion_tokens=3).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


def test_every_choice_is_paid(play: Play) -> None:
    played = play()
    one, three = played.ask("openai").json(), played.ask("openai", n=3).json()
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]


def test_a_stream_hands_out_the_same_text_then_usage_then_done(play: Play) -> None:
    played = play()
    whole = played.ask("openai").json()
    answer = played.ask("openai", streamed=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    *said, last, usage = chunks
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in said)
    assert text == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in said)


def test_a_stream_that_did_not_ask_for_usage_gets_none(play: Play) -> None:
    answer = play().ask("openai", streamed=True, stream_options=None)
    assert '"usage"' not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, None, None),
        ({"model": 5}, "model", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "img"}]}]},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_type"),
        ({"temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"n": 1000}, "n", "integer_above_max_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {}}, "stream_options", None),
        ({"model": "gpt-5.4-mini", "max_tokens": 9}, "max_tokens", "unsupported_parameter"),
    ],
)
def test_a_wrong_body_is_a_400_that_names_the_parameter(
    play: Play, change: dict[str, Any], param: str | None, code: str | None
) -> None:
    played = play()
    answer = played.ask("openai", **change)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert (played.row()["status"], played.row()["billed"]) == (400, False)


def test_a_body_that_is_no_json_is_a_400(play: Play) -> None:
    played = play()
    request = played.request("openai") | {"json": None, "content": b"{"}
    assert played.client.request(**request).status_code == 400


@pytest.mark.parametrize(
    ("headers", "code"), [({}, None), ({"authorization": "Basic x"}, None), ({"authorization": "Bearer other"}, "invalid_api_key")]
)  # fmt: skip
def test_a_missing_or_unknown_key_is_a_401(play: Play, headers: dict[str, str], code: str | None) -> None:
    played = play(accounts=[{"provider": "openai", "key": KEY}])
    answer = played.client.request(**(played.request("openai") | {"headers": headers}))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code


def test_missing_and_forbidden_models_are_told_apart(play: Play) -> None:
    played = play()
    missing, forbidden = played.ask("openai", model="missing-x"), played.ask("openai", model="forbidden-x")
    assert (missing.status_code, forbidden.status_code) == (404, 403)
    assert missing.json()["error"]["code"] == "model_not_found"
    assert "missing-x" in missing.json()["error"]["message"]
    assert "forbidden-x" in forbidden.json()["error"]["message"]
    assert [row["model"] for row in played.rows()] == ["missing-x", "forbidden-x"]


def test_models_are_listed_free_of_charge(play: Play) -> None:
    played = play()
    headers = {"authorization": f"Bearer {KEY}"}
    listing = played.client.get(f"{played.box.url}/openai/v1/models", headers=headers).json()
    assert listing["object"] == "list"
    assert {"id", "object", "created", "owned_by", "shutdown_date"} == set(listing["data"][0])
    one = played.client.get(f"{played.box.url}/openai/v1/models/ft%3Agpt-4o", headers=headers).json()
    assert one["id"] == "ft:gpt-4o"
    assert [(row["status"], row["billed"]) for row in played.rows()] == [(200, False), (200, False)]


def test_other_paths_and_methods_are_refused_and_logged(play: Play) -> None:
    played = play()
    headers = {"authorization": f"Bearer {KEY}"}
    assert played.client.get(f"{played.box.url}/openai/v1/chat/completions", headers=headers).status_code == 405
    assert played.client.post(f"{played.box.url}/openai/chat/completions", headers=headers).status_code == 404
    assert len(played.rows()) == 2
