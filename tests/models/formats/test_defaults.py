"""What a batch says for all of its lines: filled into simple lines that don't say it, never into another vendor's body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from models.errors import BadLine, UsageError
from models.formats.defaults import Defaults, response_format
from models.formats.lines import Line
from models.formats.results import Outcome, result_line
from models.formats.simple import simple_input

Reader = Callable[..., list[Line | BadLine]]

ALL = Defaults("Be brief.", 50, 0.5, response_format({"type": "object", "properties": {}}))


def body(read: Reader, line: dict[str, Any] | bytes, defaults: Defaults = ALL) -> bytes:
    content = line if isinstance(line, bytes) else json.dumps(line).encode()
    (found,) = read(content, defaults=defaults)
    assert isinstance(found, Line), found
    return found.body


def test_a_line_gets_what_it_doesnt_say(read: Reader) -> None:
    filled = simple_input(body(read, {"model": "gpt-4o", "prompt": "Hi"}))
    assert filled == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 50,
        "temperature": 0.5,
        "response_format": ALL.response_format,
    }


@pytest.mark.parametrize(
    "said",
    [
        {"system": "Own."},
        {"prompt": None, "messages": [{"role": "developer", "content": "Own."}, {"role": "user", "content": "x"}]},
        {"max_tokens": 7},
        {"max_completion_tokens": 7},
        {"temperature": 0},
        {"response_format": {"type": "text"}},
    ],
)
def test_what_a_line_says_itself_stays(read: Reader, said: dict[str, Any]) -> None:
    line = {"model": "gpt-4o", "prompt": "Hi", **said}
    filled = json.loads(body(read, line))
    assert filled.items() >= {name: value for name, value in line.items() if value is not None}.items()
    field = next(name for name in said if name != "prompt")
    mine = {"max_completion_tokens": "max_tokens", "messages": "system"}.get(field, field)
    assert (mine in filled) == (mine in said)
    assert len(filled.keys() & ALL.given().keys()) == 4 - (mine not in said)


def test_null_says_nothing(read: Reader) -> None:
    assert simple_input(body(read, {"model": "gpt-4o", "prompt": "Hi", "temperature": None}))["temperature"] == 0.5


def test_all_else_in_a_line_stays_as_it_was_written(read: Reader) -> None:
    line = b'{ "model":"gpt-4o" ,"prompt":"caf\\u00e9", "top_p": 1.00 }'
    assert body(read, line, Defaults(max_tokens=5)) == line[:-1] + b',"max_tokens":5}'
    assert body(read, line, Defaults()) == line


def test_a_body_in_a_vendors_own_form_is_never_touched(read: Reader) -> None:
    params = b'{"model":"claude-haiku-4-5","max_tokens":9,"messages":[{"role":"user","content":"x"}]}'
    assert body(read, b'{"custom_id":"a","params":' + params + b"}") == params


def test_a_line_that_asks_for_embeddings_takes_none_of_them(read: Reader) -> None:
    line = b'{"model":"text-embedding-3-small","provider":"openai","embed":"x"}'
    assert body(read, line) == line


@pytest.mark.parametrize(
    "wrong", [{"system": " "}, {"max_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}]
)
def test_defaults_that_cant_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("system", "system message")):
        Defaults(**wrong)


def test_a_schema_is_named_and_strict_only_where_it_may_be() -> None:
    inner = {
        "type": "object",
        "properties": {"b": {"type": "string"}},
        "required": ["b"],
        "additionalProperties": False,
    }
    closed = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": inner}},
        "required": ["a"],
        "additionalProperties": False,
    }
    made = response_format(closed, "my answer (v2)")
    assert made == {"type": "json_schema", "json_schema": {"name": "my_answer_v2", "schema": closed, "strict": True}}
    for opened in ({**inner, "required": []}, {**inner, "additionalProperties": True}, {"type": "object"}):
        loose = {**closed, "properties": {"a": {"type": "array", "items": opened}}}
        assert response_format(loose)["json_schema"]["strict"] is False


def test_a_schema_may_come_with_its_own_name() -> None:
    own = {"name": "mine", "schema": {"type": "object"}, "strict": True}
    assert response_format(own)["json_schema"] == own
    for wrong in ([], {}, "x"):
        with pytest.raises(UsageError, match="must be a JSON object"):
            response_format(wrong)


# Bad lines that are kept


def test_kept_bad_lines_keep_their_place_their_id_and_their_reason(read: Reader) -> None:
    content = (
        b'{"id":"a","model":"gpt-4o","prompt":"x"}\n'
        b"not json\n"
        b'{"id":"c","model":"gpt-4o","metadata":{"n":1}}\n'
        b'{"id":"a","model":"gpt-4o","prompt":"again"}\n'
        b'{"id":"line-6","model":"gpt-4o","prompt":"x"}\n'
        b"[1]\n"
        b'{"custom_id":"d","params":{}}\n'
    )
    lines = read(content, keep_bad=True)
    assert all(isinstance(line, Line) for line in lines)
    found = [(line.number, line.custom_id, line.refused) for line in lines if isinstance(line, Line)]
    assert [line[:2] for line in found] == [
        (1, "a"),
        (2, "line-2"),
        (3, "c"),
        (4, "line-4"),
        (5, "line-6"),
        (6, "line-6-bad"),
        (7, "d"),
    ]
    reasons = [line.reason for line in read(content) if isinstance(line, BadLine)]
    assert [line[2] for line in found if line[2] is not None] == reasons
    assert {line.lane for line in lines if isinstance(line, Line) and line.refused} == {""}


def test_a_kept_bad_lines_result_has_what_could_be_read_of_it(read: Reader) -> None:
    lines = read(b'{"id":7,"model":"gpt-4o","metadata":{"n":1}}\n{"id":\n', keep_bad=True)
    written = [
        json.loads(
            result_line(Outcome(line.custom_id, line.dialect, "failed", body=line.body, error_code="invalid_line"))
        )
        for line in lines
        if isinstance(line, Line)
    ]
    assert [(row["id"], row["metadata"], row["error"]["code"]) for row in written] == [
        (7, {"n": 1}, "invalid_line"),
        ("line-2", None, "invalid_line"),
    ]
