"""What is no request is refused with what it is, and with the way out."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from models.config import Config
from models.errors import BadLine
from models.formats.lines import read_lines
from models.lanes import Lanes

LANES = Lanes(Config.model_validate({"providers": [{"id": "openai", "keys": [{"id": "k", "secret": "sk-xxxxxxxx"}]}]}))


def reason(line: bytes | dict[str, Any]) -> str:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    (bad,) = read_lines(io.BytesIO(raw), LANES)
    assert isinstance(bad, BadLine)
    return bad.reason


CHAT = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200}, "error": None},
            "results, not a request",
        ),
        ({"custom_id": "a", "result": {"type": "succeeded"}}, "results, not a request"),
        ({"key": "a", "response": {"candidates": []}}, "results, not a request"),
        ({"id": "a", "status": "succeeded", "text": "x", "finish_reason": "stop", "attempts": 1}, "TruckLLM's results"),
        ({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}, "{request: .}"),
        ({"requests": [{"custom_id": "a", "params": {"messages": CHAT}}]}, "jq -c '.requests[]'"),
        ({"rows": [{"row_idx": 0, "row": {"question": "x"}}]}, "jq -c '.rows[].row'"),
        ({"columns": ["prompt"], "index": [0], "data": [["x"]]}, 'orient="records"'),
        ({"prompt": {"0": "x"}, "model": {"0": "m"}}, 'orient="records"'),
        ({"id": "x", "title": "T", "context": "c", "question": "q"}, ".prompt = .question"),
        ({"message_id": "x", "text": "Write", "role": "prompter"}, ".prompt = .text"),
        ({"message_id": "x", "utterance": "Write"}, ".prompt = .FIELD"),
        ({"id": 10**20, "prompt": "x"}, "put it into quotes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_object_of_another_form_is_named_with_the_way_out(row: dict[str, Any], words: str) -> None:
    assert words in reason(row)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"What is the capital of France?", "jq -Rc '{prompt: .}'"),
        (b"# a comment", "a comment"),
        (b"{'prompt': 'x'}", "double quotes"),
        (b'{"prompt": "x", "seed": NaN}', "write null"),
        (b'{"prompt": "x", "stream": True}', "write true"),
        (b'{"prompt": "x"},', "a comma behind the object"),
        (b'{"prompt": "x"}{"prompt": "y"}', "more than one value"),
        (b'{"prompt": "\xc3\xa9"}\r{"prompt": "y"}', "CR alone"),
        (b'{"prompt": "caf\xe9"}', "--encoding"),
        (b"\x1f\x8b\x08\0\0\0", "compressed once more"),
    ],
)
def test_what_is_no_json_is_named_with_the_way_out(line: bytes, words: str) -> None:
    assert words in reason(line)
