"""Bad input lines: told with their number and a reason that a person can act on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.errors import BadLine
from models.formats.lines import Line
from tests.models.formats.test_lines import MESSAGES, SIMPLE, batch, batch_body, simple

Reader = Callable[..., list[Line | BadLine]]


def reason(read: Reader, line: bytes) -> str:
    (only,) = read(line)
    assert isinstance(only, BadLine), only
    assert only.number == 1
    return only.reason


def test_several_answers_may_be_asked_for_where_the_whole_reply_is_the_result(read: Reader) -> None:
    (one, several) = read(simple(n=1) + b"\n" + batch_body(n=2))
    assert isinstance(one, Line)
    assert isinstance(several, Line)
    assert b'"n":2' in several.body.replace(b" ", b"")


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
        (
            simple(n=2),
            "n is 2, and a simple line's result holds one answer: repeat the line, or write it as an OpenAI batch",
        ),
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
