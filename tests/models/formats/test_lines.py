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


def reason(read: Reader, line: bytes) -> str:
    (only,) = read(line)
    assert isinstance(only, BadLine), only
    assert only.number == 1
    return only.reason


def test_a_simple_line_is_stored_whole_as_it_was_written(read: Reader) -> None:
    line = b'{ "prompt" : "caf\xc3\xa9 \\u00e9", "temperature": 1.0, "model":"gpt-4o", "id":"a" }'
    (only,) = read(b"  " + line + b" \r\n")
    assert only == Line(1, "a", "simple", "chat", "openai", "gpt-4o", line)


def test_an_openai_lines_body_is_stored_byte_for_byte(read: Reader) -> None:
    body = b'{ "messages":[{"role":"user","content":"\\u00e9 caf\xc3\xa9"}],\t"model" : "gpt-4o", "seed": 12345678901234567 ,"stream":true}'
    line = b'{"custom_id":"r 1","method":"POST","url":"/v1/chat/completions","body":' + body + b',"x":1}'
    assert read(line) == [Line(1, "r 1", "openai", "chat", "openai", "gpt-4o", body)]


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


def test_limit_counts_lines_that_arent_blank_and_reads_no_further(three_lanes: Lanes) -> None:
    stream = io.BytesIO(SIMPLE + b"\n\n[]\n" + SIMPLE + b"\nnot json")
    found = list(read_lines(stream, three_lanes, limit=2))
    assert [type(line) for line in found] == [Line, BadLine]
    assert stream.read() == SIMPLE + b"\nnot json"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        # what isn't an object in JSON
        (b"hello", "not JSON"),
        (b"{'prompt': 'hi'}", "not JSON"),
        (b'{"prompt":"hi",}', "not JSON"),
        (b'{"prompt":"hi"} {"prompt":"hi"}', "not JSON"),
        (b'{"prompt":"hi","temperature":NaN}', "not JSON"),
        (b'{"prompt":"hi","temperature":1e999}', "number too big"),
        (b'{"prompt":"a\tb"}', "not JSON"),
        (b'{"prompt":"h\xff"}', "not UTF-8: byte 0xff at byte 13"),
        (SIMPLE.decode().encode("utf-16"), "NUL bytes; is the file UTF-16"),
        (b'{"prompt":"\0"}', "NUL bytes"),
        (b"\0\0\0\0", "NUL bytes"),
        (b'{"prompt":"\\ud83d"}', "lone surrogate"),
        (b'{"prompt":"\\ud83d\\ud83d"}', "lone surrogate"),
        (b'{"prompt":"hi","metadata":["\\udc00"]}', "lone surrogate"),
        (b'{"\\udc00":1}', "lone surrogate"),
        (b'{"prompt":"\xed\xa0\xbd"}', "lone surrogate"),
        (b'{"prompt":"hi","model":"gp', "truncated"),
        (b'{"prompt":"hi"', "truncated"),
        (b"{", "truncated"),
        (b"[", "an array that doesn't end"),
        (b"[{}]", "an array: each line must be one JSON object"),
        (b'"hi"', "a bare string"),
        (b"null", "null: each line"),
        (b"7", "a bare value"),
        (b"[" * 512 + b"]" * 512, "an array"),
        (b'{"a":' * 512 + b"1" + b"}" * 512, "nested more than 200 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 200 levels"),
        (b'{"prompt":"hi","x":' + b"[" * 512 + b"]" * 512 + b"}", "nested more than 200 levels"),
        (b'{"prompt":"hi","x":' + b"[" * 1_000_000, "nested more than 200 levels"),
        # ids
        (simple(id=""), "id is empty"),
        (simple(id=" "), "id is empty"),
        (simple(id=1.5), "id must be a string (or a whole number), not 1.5"),
        (simple(id=True), "not true"),
        (simple(custom_id=["a"]), "custom_id must be a string (or a whole number), not an array"),
        (simple(id="x" * 513), "id is 513 characters long"),
        (simple(id="a\0b"), "id holds a NUL character"),
        (simple(id="a", custom_id="b"), "custom_id is 'b' and id is 'a'"),
        (batch(custom_id=...), "custom_id is missing"),
        (batch(custom_id=None), "custom_id is missing"),
        (batch(custom_id=""), "custom_id is empty"),
        # what is asked
        (b'{"model":"gpt-4o"}', "none of prompt, messages, input, embed (it has 'model')"),
        (b"{}", "none of prompt, messages, input, embed (it has no fields)"),
        (simple(messages=MESSAGES), "has prompt and messages: keep one"),
        (simple(input="x"), "has prompt and input"),
        (simple(prompt=7), "prompt must be a string, not 7"),
        (simple(prompt=["a"]), "prompt must be a string, not an array"),
        (simple(prompt={}), "prompt must be a string, not an object"),
        (simple(prompt=None, messages="hi"), "messages must be a list of {role, content}, not 'hi'"),
        (simple(prompt=None, messages=[]), "messages is an empty list"),
        (simple(prompt=None, messages=["hi"]), "messages[0] must be an object"),
        (simple(prompt=None, messages=[*MESSAGES, {"content": "x"}]), "messages[1].role must be a string"),
        (simple(prompt=None, messages=[{"role": "user"}]), "messages[0].content is missing"),
        (simple(prompt=None, messages=[{"role": "user", "content": 5}]), "messages[0].content must be"),
        (simple(prompt=None, messages=[{"role": "user", "content": ["x"]}]), "a list of other things"),
        (simple(prompt=None, input=5), "input must be a string or a list"),
        (simple(prompt=None, input=["a", "b"]), "input[0] must be an object"),
        (simple(system=["x"]), "system must be a string"),
        # parameters
        (simple(max_tokens=0), "max_tokens must be a positive whole number, not 0"),
        (simple(max_tokens=-1), "max_tokens must be"),
        (simple(max_tokens=1.5), "max_tokens must be"),
        (simple(max_tokens="64"), "max_tokens must be a positive whole number, not '64'"),
        (simple(max_tokens=True), "max_tokens must be a positive whole number, not true"),
        (simple(max_completion_tokens=[]), "max_completion_tokens must be"),
        (simple(temperature="hot"), "temperature must be a number, not 'hot'"),
        (simple(temperature=False), "temperature must be a number"),
        (simple(stream="yes"), "stream must be true or false"),
        (simple(stop=5), "stop must be a string or a list of strings"),
        (simple(stop=[5]), "stop must be"),
        (simple(seed=1.5), "seed must be a whole number"),
        (simple(n=0), "n must be"),
        (simple(tools={}), "tools must be a list"),
        (batch_body(max_tokens=0), "body.max_tokens must be a positive whole number"),
        (batch_body(temperature="x"), "body.temperature must be a number"),
        # embeddings
        (simple(prompt=None, embed=[]), "embed is an empty list"),
        (simple(prompt=None, embed=["a", ""]), "embed holds an empty text"),
        (simple(prompt=None, embed=["a", 1]), "embed[1] must be a string, not 1"),
        (simple(prompt=None, embed={}), "embed must be a string or a list of strings, not an object"),
        (simple(embed="a"), "has embed and prompt: a line asks for embeddings or for an answer, not for both"),
        (simple(prompt=None, embed="a", system="x"), "has embed and system"),
        (simple(prompt=None, embed="a", stream=True), "has embed and stream"),
        (simple(prompt=None, embed="a", dimensions=0), "dimensions must be a positive whole number"),
        # names and lanes
        (simple(model=7), "model must be a string, not 7"),
        (simple(model=""), "model is empty"),
        (simple(model="gpt\0"), "model holds a NUL character"),
        (simple(model="m" * 513), "model is 513 characters long"),
        (simple(model=None), "has no model"),
        (simple(model="mistral"), "no provider for model 'mistral'"),
        (simple(provider=3), "provider must be a string, not 3"),
        (simple(provider="nobody"), "no provider 'nobody'"),
        (simple(route="nowhere"), "no route 'nowhere'"),
        (simple(provider="openai", route="smart"), "keep one of them"),
        # OpenAI Batch
        (batch(method=...), "method is missing"),
        (batch(method="GET"), "method must be 'POST', not 'GET'"),
        (batch(url=...), "url is missing"),
        (batch(url="/v1/videos"), "url '/v1/videos' is not understood; these are: /v1/chat/completions"),
        (batch(url=["x"]), "url an array is not understood"),
        (batch(body=...), "body is missing"),
        (batch(body="x"), "body must be an object, not 'x'"),
        (batch(body={"model": "gpt-4o"}), "body.messages is missing"),
        (batch(url="/v1/completions", body={"model": "gpt-4o"}), "body.prompt is missing"),
        (batch(url="/v1/embeddings", body={"model": "gpt-4o"}), "body.input is missing"),
        (batch_body(messages=[{"role": 1, "content": "x"}]), "body.messages[0].role"),
        (batch_body(model=5), "body.model must be a string, not 5"),
        (batch(url="/v1/embeddings", body={"model": "claude-1", "input": "x"}), "embeddings can't go to provider 'cla"),
    ],
)
def test_a_bad_line_says_what_is_wrong(read: Reader, line: bytes, said: str) -> None:
    assert said in reason(read, line)


@pytest.mark.parametrize("whole", [batch(), simple(id="caf\u00e9", messages=None)])
def test_a_line_cut_anywhere_is_called_truncated(read: Reader, whole: bytes) -> None:
    for end in range(1, len(whole)):
        said = reason(read, whole[:end])
        assert "truncated" in said or "not JSON" in said, (end, said)
    assert sum("truncated" in reason(read, whole[:end]) for end in range(1, len(whole))) > 0.9 * len(whole)


def test_a_reason_never_holds_control_characters_or_whole_prompts(read: Reader) -> None:
    for line in (simple(model="\x1b[31m" + "x" * 500), simple(id=["\x1b"]), simple(stream="\x1b[31m" * 900)):
        said = reason(read, line)
        assert said.isprintable()
        assert len(said) < 1200


def test_a_duplicate_id_names_the_line_that_has_it_too(read: Reader) -> None:
    found = read(b"\n".join([simple(id="a"), simple(id="b"), batch(custom_id="a"), simple(), simple(id="line-4")]))
    assert [line for line in found if isinstance(line, BadLine)] == [
        BadLine(3, "duplicate id 'a': line 1 has it too"),
        BadLine(5, "duplicate id 'line-4': line 4 has it too"),
    ]


def test_a_duplicate_of_a_bad_line_is_found_in_the_same_run(read: Reader) -> None:
    found = read(simple(id="a", max_tokens=0) + b"\n" + simple(id="a"))
    assert ["max_tokens" in found[0].reason, "duplicate" in found[1].reason] == [True, True]  # type: ignore[union-attr]


def test_every_bad_line_is_told_with_its_number_and_the_good_ones_are_still_read(read: Reader) -> None:
    found = read(b"\n".join([SIMPLE, b"oops", b"", SIMPLE, b"[]", SIMPLE]))
    assert [(type(line), line.number) for line in found] == [
        (Line, 1),
        (BadLine, 2),
        (Line, 4),
        (BadLine, 5),
        (Line, 6),
    ]


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


@settings(max_examples=600, deadline=None)
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
