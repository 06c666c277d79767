"""Vectors in replies and in result lines: every digit as it came, in the order of the texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.formats.outcome import Outcome
from models.formats.results import result_line
from models.formats.vectors import members, vectors_in

LINE = b'{"id": 7, "embed": ["a", "b"], "model": "m", "metadata": {"row": 1}}'
OPENAI = b'{"data": [{"index": 1, "embedding": [0.10, -2.5e-3]}, {"index": 0, "embedding": [1.00]}], "usage": {}}'
GEMINI = b'{"embeddings": [{"values": [1.00]}, {"values": [\\n0.10,\\n -2.5e-3]}]}'


def result(response: bytes | None, **changes: Any) -> bytes:
    values = {"status": "succeeded", "body": LINE, "response": response, "http_status": 200, **changes}
    return result_line(Outcome("7", "simple", **values))


@pytest.mark.parametrize(
    ("body", "vectors"),
    [
        (OPENAI, [b"[1.00]", b"[0.10, -2.5e-3]"]),
        (b'{"data":[{"embedding":"AAAA"}]}', [b'"AAAA"']),
        (b'{"embedding":{"values":[1]}}', [b"[1]"]),
        (b'{"data":[{"embedding":[]}]}', []),
        (b'{"data":[{"embedding":[ ]}]}', []),
        (b'{"data":[{"embedding":null}]}', []),
        (b'{"data":[{"index":0}]}', []),
        (b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[2]}]}', []),
        (b'{"data":[{"index":1,"embedding":[1]}]}', []),
        (b'{"data":[]}', []),
        (b'{"choices":[]}', None),
        (b'{"data":7}', None),
        (b'{"data":[7]}', None),
    ],
)
def test_vectors_are_found_whole_and_in_order_or_not_at_all(body: bytes, vectors: list[bytes] | None) -> None:
    found = vectors_in(members(body))
    assert (None if found is None else [bytes(one) for one in found]) == vectors


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b'{"data":[1', b"\xff"])
def test_what_is_no_object_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        members(body)


@pytest.mark.parametrize("response", [OPENAI, GEMINI.replace(b"\\n", b"\n")])
def test_a_result_holds_the_vectors_digit_by_digit_in_the_order_of_the_texts(response: bytes) -> None:
    line = result(response)
    assert line.count(b"\n") == 1
    assert b'"embeddings":[[1.00],[0.10,' in line
    row = json.loads(line)
    assert (row["id"], row["text"], row["embeddings"]) == (7, None, [[1.0], [0.1, -0.0025]])
    assert row["metadata"] == {"row": 1}


@pytest.mark.parametrize(
    "changes",
    [{"status": "failed", "error_code": "x"}, {"status": "queued"}, {"status": "succeeded", "response": b"<html>"}],
)
def test_a_line_without_vectors_says_null(changes: dict[str, Any]) -> None:
    assert json.loads(result(**{"response": None, **changes}))["embeddings"] is None


def test_a_line_that_asked_for_an_answer_has_no_such_field() -> None:
    line = result_line(Outcome("1", "simple", "succeeded", body=b'{"prompt": "hi"}', response=OPENAI, text="Hi"))
    assert b"embeddings" not in line
