"""Reading: what becomes a Line, what becomes a BadLine and why, and what survives byte for byte."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BadLine, InputError
from models.formats import lines as lines_module
from models.formats.lines import Line, open_input, read_lines
from models.formats.simple import simple_input
from models.lanes import Lanes

Reader = Callable[..., list[Line | BadLine]]

SIMPLE = b'{"prompt":"hi","model":"gpt-4o"}'
MESSAGES = [{"role": "user", "content": "hi"}]


def simple(**fields: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "prompt": "hi", **fields}).encode()


def batch(**fields: Any) -> bytes:
    body = {"model": "gpt-4o", "messages": MESSAGES}
    line = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": body, **fields}
    return json.dumps({name: value for name, value in line.items() if value is not ...}).encode()


def batch_body(**fields: Any) -> bytes:
    return batch(body={"model": "gpt-4o", "messages": MESSAGES, **fields})


def test_a_simple_line_is_stored_whole_as_it_was_written(read: Reader) -> None:
    line = b'{ "prompt" : "caf\xc3\xa9 \\u00e9", "temperature": 1.0, "model":"gpt-4o", "id":"a" }'
    (only,) = read(b"  " + line + b" \r\n")
    assert only == Line(1, "a", "simple", "chat", "openai", "gpt-4o", line)


def test_an_openai_lines_body_is_stored_byte_for_byte(read: Reader) -> None:
    body = b'{ "messages":[{"role":"user","content":"\\u00e9 caf\xc3\xa9"}],\t"model" : "gpt-4o", "seed": 12345678901234567 ,"stream":true}'
    line = b'{"custom_id":"r 1","method":"POST","url":"/v1/chat/completions","body":' + body + b',"x":1}'
    assert read(line) == [Line(1, "r 1", "openai", "chat", "openai", "gpt-4o", body, metadata=b'{"x":1}')]


def test_a_line_with_embed_asks_for_embeddings(read: Reader) -> None:
    line = b'{"embed": ["a", "b"], "model": "text-embedding-3-small", "dimensions": 8, "metadata": {"row": 1}}'
    (only,) = read(line)
    assert only == Line(1, "line-1", "simple", "embeddings", "openai", "text-embedding-3-small", line)
    assert simple_input(line) == {"input": ["a", "b"], "dimensions": 8}


@pytest.mark.parametrize(
    ("url", "operation", "body"),
    [
        ("/v1/responses", "responses", b'{"model":"gpt-4o",  "input":"hi","reasoning":{"effort":"low"}}'),
        ("/v1/completions", "completions", b'{"model":"gpt-4o",  "prompt":[1,2]}'),
        ("/v1/embeddings", "embeddings", b'{"input":["a",  "b"],"model":"gpt-4o"}'),
    ],
)
def test_the_url_of_an_openai_line_says_what_is_asked_for(read: Reader, url: str, operation: str, body: bytes) -> None:
    line = b'{"custom_id":"r","method":"POST","url":"%b","body":%b}' % (url.encode(), body)
    assert read(line) == [Line(1, "r", "openai", operation, "openai", "gpt-4o", body)]


def test_the_bare_bodies_of_parallel_request_scripts_just_work(read: Reader) -> None:
    line = json.dumps({"model": "gpt-4o", "messages": MESSAGES, "metadata": {"row": 1}}).encode()
    (only,) = read(line)
    assert isinstance(only, Line)
    assert (only.custom_id, only.dialect, only.body) == ("line-1", "simple", line)


def test_bom_crlf_blank_lines_and_a_missing_last_newline_are_fine_and_counted(read: Reader) -> None:
    content = b"\xef\xbb\xbf" + SIMPLE + b"\r\n\r\n  \t\n" + SIMPLE + b"\n\n" + SIMPLE
    found = read(content)
    assert [(line.number, getattr(line, "custom_id", line)) for line in found] == [
        (1, "line-1"),
        (4, "line-4"),
        (6, "line-6"),
    ]
    assert all(isinstance(line, Line) and line.body == SIMPLE for line in found)


def test_files_glued_together_keep_their_inner_bom_out_of_the_way(read: Reader) -> None:
    found = read(SIMPLE + b"\n\xef\xbb\xbf" + SIMPLE + b"\n")
    assert [line.body for line in found if isinstance(line, Line)] == [SIMPLE, SIMPLE]


@pytest.mark.parametrize("content", [b"", b"\n\r\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
def test_a_file_without_lines_yields_nothing(read: Reader, content: bytes) -> None:
    assert read(content) == []


def test_ids_come_from_id_or_custom_id_and_whole_numbers_are_taken_as_their_digits(read: Reader) -> None:
    content = b"\n".join([simple(id="a"), simple(custom_id="b"), simple(id=7), simple(id="c", custom_id="c")])
    content += b"\n" + batch(custom_id=12)
    assert [line.custom_id for line in read(content) if isinstance(line, Line)] == ["a", "b", "7", "c", "12"]


def test_null_stands_for_not_given(read: Reader) -> None:
    row = {"id": None, "messages": None, "input": None, "system": None, "provider": None, "route": None}
    (only,) = read(simple(**row, max_tokens=None, stop=None, metadata=None))
    assert isinstance(only, Line)
    assert only.custom_id == "line-1"


def test_the_options_fill_and_override(read: Reader) -> None:
    plain, placed = b'{"prompt":"hi","model":"gpt-4o"}', b'{"prompt":"hi","model":"gpt-4o","provider":"claude"}'
    found = read(plain + b"\n" + placed, model="gemini-9", provider="gemini")
    assert [(line.lane, line.model) for line in found if isinstance(line, Line)] == [
        ("gemini", "gemini-9"),
        ("claude", "gemini-9"),
    ]
    found = read(plain + b"\n" + placed, route="smart")
    assert [(line.lane, line.model) for line in found if isinstance(line, Line)] == [
        ("smart", ""),
        ("claude", "gpt-4o"),
    ]


def test_lines_of_both_dialects_name_provider_and_route(read: Reader) -> None:
    content = b"\n".join([simple(provider="claude"), simple(route="smart"), batch(provider="openai")])
    assert [line.lane for line in read(content) if isinstance(line, Line)] == ["claude", "smart", "openai"]


def test_the_provider_of_the_command_line_comes_before_a_prefix_that_is_a_providers_id(read: Reader) -> None:
    for line in (simple(model="claude/opus"), batch_body(model="claude/opus")):
        (only,) = read(line, provider="openai")
        assert isinstance(only, Line)
        assert (only.lane, only.model) == ("openai", "claude/opus")
    (only,) = read(simple(model="openai/gpt-4o"), provider="openai")
    assert isinstance(only, Line)
    assert (only.lane, only.model) == ("openai", "gpt-4o")


def test_limit_counts_lines_that_arent_blank_and_reads_no_further(three_lanes: Lanes) -> None:
    stream = io.BytesIO(SIMPLE + b"\n\n[]\n" + SIMPLE + b"\nnot json")
    found = list(read_lines(stream, three_lanes, limit=2))
    assert [type(line) for line in found] == [Line, BadLine]
    assert stream.read() == SIMPLE + b"\nnot json"


def test_nul_escapes_inside_a_prompt_are_the_users_own_affair(read: Reader) -> None:
    (only,) = read(simple(prompt="a\0b"))
    assert isinstance(only, Line)


def test_nesting_that_real_requests_have_passes_and_braces_in_text_dont_count(read: Reader) -> None:
    deep: Any = "leaf"
    for _ in range(150):
        deep = {"properties": deep}
    assert isinstance(read(simple(response_format=deep))[0], Line)
    assert isinstance(read(simple(prompt="{[" * 5000))[0], Line)


def test_tool_calls_and_parts_are_messages_too(read: Reader) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
        {"role": "tool", "content": "42", "tool_call_id": "c"},
        {"role": "assistant", "refusal": "no"},
    ]
    assert isinstance(read(simple(prompt=None, messages=messages))[0], Line)
    assert isinstance(read(simple(prompt=None, input=messages))[0], Line)
    assert isinstance(read(batch_body(messages=messages))[0], Line)


def test_a_50_mb_line_is_read_whole(read: Reader) -> None:
    line = b'{"model":"gpt-4o","prompt":"' + b"x" * (50 << 20) + b'"}'
    first, second = read(line + b"\n" + SIMPLE)
    assert isinstance(first, Line)
    assert isinstance(second, Line)
    assert first.body == line


def test_a_line_beyond_all_bounds_is_refused_without_being_held(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE", 1024 * 1024)
    found = read(SIMPLE + b"\n" + b"x" * (5 << 20) + b"\n" + SIMPLE + b"\n" + b"x" * (2 << 20))
    assert [type(line) for line in found] == [Line, BadLine, Line, BadLine]
    assert found[1] == BadLine(2, "longer than 1 MB")


class _Endless(io.RawIOBase):
    """A file of `count` lines that is never in memory."""

    def __init__(self, count: int) -> None:
        self._rest = count
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._ready and self._rest:
            self._rest -= 1
            self._ready = b'{"model":"gpt-4o","prompt":"' + b"x" * 20_000 + b'"}\n'
        taken, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def test_memory_stays_flat_however_long_the_file_is(three_lanes: Lanes) -> None:
    stream = io.BufferedReader(_Endless(3_000))  # 60 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_lines(stream, three_lanes)) == 3_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_a_file_is_opened_and_a_missing_one_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(SIMPLE)
    with open_input(str(path)) as stream:
        assert stream.read() == SIMPLE
    for bad in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(InputError, match="can't read"):
            open_input(str(bad))


def test_a_dash_is_stdin_which_stays_open() -> None:
    reading, writing = os.pipe()
    saved = os.dup(0)
    try:
        os.write(writing, SIMPLE + b"\n")
        os.close(writing)
        os.dup2(reading, 0)
        with pytest.MonkeyPatch.context() as patch, open(0, closefd=False) as stdin:
            patch.setattr("sys.stdin", stdin)
            with open_input("-") as stream:
                assert stream.read() == SIMPLE + b"\n"
            os.fstat(0)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)


def test_a_stdin_that_lives_in_memory_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SIMPLE)))
    assert open_input("-").read() == SIMPLE


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_crash_the_reader(read: Reader, content: bytes) -> None:
    for line in read(content):
        assert isinstance(line, Line | BadLine)


_names = st.sampled_from(
    ["prompt", "messages", "input", "id", "custom_id", "model", "provider", "route", "system", "max_tokens", "stop"]
    + ["metadata", "stream", "body", "method", "url", "x", "tools"]
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=True)
    | st.text()
    | st.sampled_from(["gpt-4o", "openai", "POST", "/v1/chat/completions", "smart"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_names, _values, max_size=8), st.booleans())
def test_any_object_becomes_a_line_or_a_bad_line(read: Reader, row: dict[str, Any], escaped: bool) -> None:
    content = json.dumps(row, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    (only,) = read(content)
    if isinstance(only, Line):
        assert only.body in content
        for text in (only.custom_id, only.lane, only.model):
            assert "\0" not in text
            assert text.encode()
    else:
        assert only.reason


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=40), max_size=8))
def test_what_goes_in_as_lines_comes_out_in_order_and_untouched(read: Reader, prompts: list[str]) -> None:
    written = [simple(prompt=prompt, id=f"p{index}") for index, prompt in enumerate(prompts)]
    found = read(b"\r\n".join(written))
    assert [(line.custom_id, line.body) for line in found if isinstance(line, Line)] == [
        (f"p{index}", line) for index, line in enumerate(written)
    ]
