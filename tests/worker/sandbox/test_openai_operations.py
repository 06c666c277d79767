"""The sandbox's OpenAI besides chat: what /responses, /completions and /embeddings answer and refuse."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import httpx
import pytest

from tests.worker.sandbox.conftest import KEY, Play, Played


def ask(played: Played, path: str, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    return played.client.post(f"{played.box.url}/openai/v1/{path}", headers=headers, json=body)


def test_a_response_has_the_shape_and_usage_of_the_real_one(play: Play) -> None:
    played = play(usage_extras=True)
    body = ask(
        played, "responses", model="m", instructions="Be brief.", input=[{"role": "user", "content": "hi"}]
    ).json()
    row = played.row()
    assert (body["object"], body["status"], body["error"]) == ("response", "completed", None)
    text = body["output"][-1]["content"][0]["text"]
    assert text.startswith(row["prompt_sha"][:8])
    assert body["usage"]["input_tokens"] == row["input_tokens"]
    assert body["usage"]["output_tokens"] == row["output_tokens"]
    assert body["usage"]["output_tokens_details"]["reasoning_tokens"] == row["reasoning_tokens"]


def test_a_streamed_response_numbers_its_events_and_ends_with_the_whole_of_it(play: Play) -> None:
    played = play()
    whole = ask(played, "responses", model="m", input="hi").json()
    answer = ask(played, "responses", model="m", input="hi", stream=True)
    events = [block.split("\n") for block in answer.text.split("\n\n") if block]
    bodies = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [f"event: {body['type']}" for body in bodies] == [name for name, _ in events]
    assert [body["sequence_number"] for body in bodies] == list(range(len(bodies)))
    said = "".join(body["delta"] for body in bodies if body["type"] == "response.output_text.delta")
    assert said == whole["output"][0]["content"][0]["text"]
    assert bodies[-1] == {"type": "response.completed", "sequence_number": len(bodies) - 1, "response": whole}


def test_completions_answer_each_prompt_as_often_as_asked(play: Play) -> None:
    played = play()
    body = ask(played, "completions", model="m", prompt=["a", "b"], n=2, max_tokens=5).json()
    assert body["object"] == "text_completion"
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["completion_tokens"] == 20 == played.row()["output_tokens"]


def test_embeddings_are_the_same_for_the_same_text_and_have_length_one(play: Play) -> None:
    played = play()
    body = ask(played, "embeddings", model="m", input=["a", "b", "a"], dimensions=8).json()
    vectors = [entry["embedding"] for entry in body["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(number * number for number in vectors[0]) == pytest.approx(1, abs=1e-6)
    assert body["usage"] == {"prompt_tokens": 2, "total_tokens": 2}  # "a\nb\na" is 5 characters, 4 a token
    assert (played.row()["input_tokens"], played.row()["output_tokens"]) == (2, 0)


def test_embeddings_come_as_base64_where_that_is_asked_for(play: Play) -> None:
    played = play()
    asked = {"model": "m", "input": "a", "dimensions": 8}
    plain = ask(played, "embeddings", **asked).json()["data"][0]["embedding"]
    coded = ask(played, "embeddings", **asked, encoding_format="base64").json()["data"][0]["embedding"]
    assert struct.unpack("<8f", base64.b64decode(coded)) == pytest.approx(plain, abs=1e-6)


def test_tokens_given_by_number_are_counted_one_by_one(play: Play) -> None:
    played = play()
    assert ask(played, "embeddings", model="m", input=[5] * 30).json()["usage"]["prompt_tokens"] == 30


@pytest.mark.parametrize(
    ("path", "change", "param", "code"),
    [
        ("responses", {"input": None}, "input", "missing_required_parameter"),
        ("responses", {"input": 5}, "input", "invalid_type"),
        ("responses", {"messages": []}, "messages", "unsupported_parameter"),
        ("responses", {"max_tokens": 20}, "max_tokens", "unsupported_parameter"),
        ("responses", {"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ("responses", {"input": [{"role": "bot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "text"}]}]}, "input[0].content[0].type", "invalid_value"),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, "text.format.name", "missing_required_parameter"),
        ("responses", {"tools": [{"type": "function", "function": {}}]}, "tools[0].name", "missing_required_parameter"),
        ("responses", {"service_tier": "cheap"}, "service_tier", "invalid_value"),
        ("responses", {"foo": 1}, "foo", "unknown_parameter"),
        ("completions", {"prompt": None}, "prompt", "missing_required_parameter"),
        ("completions", {"messages": []}, "messages", "unknown_parameter"),
        ("completions", {"n": 3, "best_of": 2}, "best_of", "integer_below_min_value"),
        ("completions", {"prompt": []}, "prompt", "empty_array"),
        ("embeddings", {"input": None}, "input", "missing_required_parameter"),
        ("embeddings", {"input": ["a", ""]}, "input", None),
        ("embeddings", {"input": ["a", 1]}, "input[1]", "invalid_type"),
        ("embeddings", {"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ("embeddings", {"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ("embeddings", {"model": "text-embedding-ada-002", "dimensions": 5}, "dimensions", None),
        ("embeddings", {"stream": True}, "stream", "unknown_parameter"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_a_400_that_names_the_parameter(
    play: Play, path: str, change: dict[str, Any], param: str, code: str | None
) -> None:
    good = {"responses": {"input": "x"}, "completions": {"prompt": "x"}, "embeddings": {"input": "x"}}
    played = play()
    answer = ask(played, path, **{"model": "m", **good[path], **change})
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert played.row()["billed"] is False
