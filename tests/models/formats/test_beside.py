"""What users write beside a vendor's body: metadata and columns of their own, which are never sent and come back."""

from __future__ import annotations

import json

import pytest

from models.formats.lines import Line
from models.formats.results import Form, Outcome, Writer, metadata_in, result_line
from tests.models.formats.conftest import Reader

BEFORE = {
    "openai": b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[{"role":"user",'
    b'"content":"x"}],"metadata":{"own":"1"}}',
    "claude": b'{"custom_id":"a","params":{"model":"claude-a","max_tokens":5,"messages":[{"role":"user","content":"x"}]}',
    "gemini": b'{"key":"a","model":"gemini-a","request":{"contents":[{"parts":[{"text":"x"}]}]}',
}


@pytest.mark.parametrize("form", BEFORE)
@pytest.mark.parametrize(
    ("more", "kept"),
    [
        (b"", None),
        (b',"metadata":null,"provider":null', None),
        (b',"metadata": {"n": 1.50, "n": 2}', b'{"n": 1.50, "n": 2}'),
        (b',"metadata":"tag"', b'"tag"'),
        (b',"row":17,"who":{"is":"x"}', b'{"row":17,"who":{"is":"x"}}'),
        (b',"row":17,"n":1,"metadata":{"n":2.0,"m":null}', b'{"row":17,"n":2.0,"m":null}'),
        (b',"row":17,"metadata":["a"]', b'{"row":17,"metadata":["a"]}'),
    ],
    ids=["nothing", "nulls", "metadata as written", "a text", "columns", "both", "columns beside a list"],
)
def test_what_stands_beside_a_body_is_kept_as_metadata(
    read: Reader, form: str, more: bytes, kept: bytes | None
) -> None:
    (line,) = read(BEFORE[form] + more + b"}")
    assert isinstance(line, Line)
    assert line.metadata == kept
    assert b"row" not in line.body


@pytest.mark.parametrize("form", BEFORE)
def test_a_bad_line_keeps_it_too(read: Reader, form: str) -> None:
    bad = BEFORE[form].replace(b"model", b"no") + b',"row":17}'
    (line,) = read(bad, keep_bad=True)
    assert isinstance(line, Line)
    assert line.refused
    assert b'"row":17' in (line.metadata or b"")


def test_a_simple_line_holds_its_own(read: Reader) -> None:
    (line,) = read(b'{"model":"gpt-4o","prompt":"x","metadata":{"a":1}}')
    assert isinstance(line, Line)
    assert line.metadata is None
    assert metadata_in(line.body, b"") == b'{"a":1}'


@pytest.mark.parametrize("own", BEFORE)
@pytest.mark.parametrize("form", [Form.JSONL, Form.SIMPLE, Form.OPENAI, Form.CLAUDE, Form.GEMINI])
@pytest.mark.parametrize("status", ["succeeded", "failed", "queued"])
def test_it_comes_back_as_metadata_in_every_form(own: str, form: Form, status: str) -> None:
    told = Outcome("a", own, status, metadata=b'{"row":\n17.0}', response=b'{"object":"x"}')
    line = Writer(form).line(told)
    assert line.count(b"\n") == 1
    assert json.loads(line)["metadata"] == {"row": 17.0}
    assert b"17.0" in line


def test_without_any_a_vendors_line_has_no_such_field() -> None:
    for form in ("openai", "claude", "gemini"):
        assert "metadata" not in json.loads(result_line(Outcome("a", form, "succeeded", response=b'{"object":"x"}')))
