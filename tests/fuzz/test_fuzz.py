"""Bad input of any kind, drawn for a moment: no reader crashes, loses a line, or takes what is broken for good.

`make fuzz` goes on from here for as long as one likes; what it found stands here as examples. Real connections that break are in
tests/worker/test_http.py.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import bodies, seeds, streams
from tests.fuzz.targets import READERS, SECRET, TARGETS, read_reply, reply
from worker.providers.base import Reply
from worker.providers.rubbish import NONSENSE, dumped, places_in, replaced

NAMES = tuple(TARGETS)
RUNS = {"http-api": 40, "container": 40, "parquet": 30, "packed": 30, "kept-models": 40, "config": 60}
ALL = list(HealthCheck)
STREAMED = ("openai", "openai-responses", "openai-completions", "gemini", "claude")
BYTES = (
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"}",
    b"[",
    b"\\",
    b"\\ud800",
    b"\n",
    b"\r",
    b",",
    b"$KEY",
    b"%00",
    b"1e999",
    b"-1",
)


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """A good input with some of its bytes gone, doubled or replaced."""
    data = draw(st.sampled_from(seeds(target)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        put = draw(st.sampled_from(BYTES) | st.binary(max_size=6) | st.just(data[start:end] * 2))
        data = data[:start] + put + data[end:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 3)) == 0 else data


@pytest.mark.parametrize("target", NAMES)
def test_no_change_of_good_input_breaks_a_promise(target: str) -> None:
    @settings(max_examples=RUNS.get(target, 80), deadline=None, suppress_health_check=ALL, database=None)
    @given(changed(target))
    def holds(data: bytes) -> None:
        TARGETS[target](data)

    holds()


@pytest.mark.parametrize("target", NAMES)
def test_good_input_is_taken_as_it_is(target: str) -> None:
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("reader", READERS)
def test_no_change_of_a_value_in_a_reply_breaks_a_promise(reader: str) -> None:
    known = bodies(reader)

    @settings(max_examples=120, deadline=None, suppress_health_check=ALL, database=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        status, body = data.draw(st.sampled_from(known))
        for _ in range(data.draw(st.integers(1, 3))):
            body = replaced(
                body, data.draw(st.sampled_from(places_in(body))), data.draw(st.sampled_from((*NONSENSE, SECRET)))
            )
        at = {200: 0, 400: 7, 401: 8, 403: 10, 404: 11, 429: 14}.get(status, 15)
        reply(reader, bytes([at, data.draw(st.integers(0, 255)), data.draw(st.sampled_from([0, 2]))]) + dumped(body))

    holds()


@pytest.mark.parametrize("reader", STREAMED)
def test_no_change_of_a_value_in_a_stream_breaks_a_promise(reader: str) -> None:
    (stream,) = streams(reader)
    events = stream.strip().split(b"\n\n")

    @settings(max_examples=120, deadline=None, suppress_health_check=ALL, database=None)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(events) - 1))
        head, _, told = events[at].partition(b"data: ")
        if told == b"[DONE]":
            return
        body = json.loads(told)
        for _ in range(data.draw(st.integers(1, 2))):
            body = replaced(body, data.draw(st.sampled_from(places_in(body))), data.draw(st.sampled_from(NONSENSE)))
        odd = [*events[:at], head + b"data: " + dumped(body), *events[at + 1 :]]
        reply(reader, b"\0\0\1" + b"\n\n".join(odd) + b"\n\n")

    holds()


@pytest.mark.parametrize("reader", READERS)
def test_a_whole_reply_cut_anywhere_is_never_a_success(reader: str) -> None:
    good = next(
        body for status, body in bodies(reader) if status == 200 and _answers(reader, orjson.dumps(body), False)
    )
    whole = orjson.dumps(good)
    for end in range(len(whole)):
        assert not _answers(reader, whole[:end], False), whole[:end]


@pytest.mark.parametrize("reader", STREAMED)
def test_a_stream_cut_anywhere_is_never_a_shorter_answer(reader: str) -> None:
    """It is a failure, or all of the answer has come: the same text, without the usage that follows it in some dialects."""
    (stream,) = streams(reader)
    text = read_reply(reader, Reply(200, {"content-type": "text/event-stream"}, stream), streamed=True).text
    assert text is not None
    for end in range(len(stream)):
        found = read_reply(reader, Reply(200, {"content-type": "text/event-stream"}, stream[:end]), streamed=True)
        assert found.failure is not None or found.text == text, stream[:end]


GROWING: dict[str, Any] = {
    "openai": {"choices": [{"delta": {"content": "x" * 40}, "logprobs": {"content": [1] * 8}}]},
    "openai-completions": {"choices": [{"text": "x" * 40, "logprobs": {"tokens": ["x"] * 8}}]},
    "openai-responses": {"type": "response.output_text.delta", "delta": "x" * 40},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "x" * 40}]}}]},
    "claude": {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 40}},
}


@pytest.mark.parametrize("reader", STREAMED)
def test_a_stream_of_many_pieces_takes_time_in_proportion_to_its_length(reader: str) -> None:
    event = b"data: " + orjson.dumps(GROWING[reader]) + b"\n\n"

    def seconds(pieces: int) -> float:
        began = time.process_time()
        read_reply(reader, Reply(200, {"content-type": "text/event-stream"}, event * pieces), streamed=True)
        return time.process_time() - began

    few = min(seconds(3_000) for _ in range(3))
    assert (
        seconds(30_000) < 40 * few + 0.1
    )  # ten times as much; it was a hundred times when each piece copied the text so far


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("depth", [200, 900, 1020, 100_000])
def test_nesting_of_any_depth_breaks_no_reader(reader: str, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for odd in (
        b'{"error":' + deep + b"}",
        b'{"id":"a","choices":' + deep + b',"content":' + deep + b',"x":' + deep + b"}",
    ):
        for head in (b"\0\0\0", b"\x0e\0\0"):
            reply(reader, head + odd)
        reply(reader, b"\0\0\1data: " + odd + b"\n\n" + b"".join(streams(reader)))


@pytest.mark.parametrize(
    "odd", ["a\0b", "\ud800", "", " ", "x" * 600, "caf\u00e9", 10**40, -1, 1.5, True, None, [], {}]
)
@pytest.mark.parametrize("field", ["id", "model", "provider", "route", "prompt", "system", "metadata", "max_tokens"])
def test_an_odd_value_in_a_field_makes_a_job_or_a_named_bad_line(field: str, odd: Any) -> None:
    line: dict[str, Any] = {"id": "a", "prompt": "b", field: odd}
    TARGETS["lines"](dumped(line) + b"\n" + dumped({"prompt": "c"}))


def test_rows_of_a_table_are_neither_lost_nor_doubled() -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=ALL, database=None)
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6))
    @example(["\r", "\n", '"', ",", "", "\0", "\u2028", "\x1a"])
    def holds(cells: list[str]) -> None:
        quoted = "".join('"' + cell.replace('"', '""') + '"\n' for cell in cells)
        TARGETS["table"](("prompt\n" + quoted).encode())

    holds()


FOUND: tuple[tuple[str, bytes], ...] = (
    # a reason held the tab that the csv module names as it is
    ("table", b'prompt\tmodel\na\ta\tg,prompt,"a #"\n"\n9\n1\n"%\nb"\n9b"\n'),
    ("table", b"\x1b[31mred\x07,b\n1,2\n"),
    ("table", b",".join(b"column%d" % n for n in range(2_000)) + b"\n"),
    # the name of an unknown field was the key itself
    ("config", b"providers: [{id: openai, keys: [{id: a, secret:canary.0123456789}]}]"),
    ("config", b"providers: [{id: openai, keys: [{id: a, canary.0123456789}]}]"),
    ("config", b"providers:\n- id: openai\n  canary.0123456789: 1\n  keys: [{id: a, secret: b}]\n"),
    # numbers and texts that no column takes
    ("http-api", b"GET /v1/batches?limit=\x9f"),
    ("http-api", b"GET /nowhere?\xff"),
    ("http-api", b"GET /healthz?\xff"),
    ("http-api", b"GET /v1/costs?batch=" + b"9" * 30),
    ("http-api", b"POST /v1/batches?model=openai/x&priority=" + b"9" * 30 + b'\n{"prompt":"a"}'),
    ("http-api", b'POST /v1/batches?model=openai/x&name=%00\n{"prompt":"a"}'),
    ("http-api", b"POST /v1/batches/1/rerun?from=%00"),
    ("http-api", b"POST /v1/batches?model=" + b"m" * 600 + b'\n{"prompt":"a"}'),
    ("lines", b'{"prompt":"a","model":"openai/' + b"m" * 400 + b'"}'),
    # a list of models that isn't what was kept
    ("kept-models", b'{"a":{"base_url":"b","listed_at":1,"models":[{"id":"c","retires_at":5}]}}'),
    ("kept-models", b'{"a":{"base_url":5,"listed_at":1' + b"0" * 400 + b',"models":[]}}'),
    ("kept-models", b"[" * 100_000),
    # a column's name that isn't UTF-8
    ("parquet", b"#\x04\x22\xfb'"),
    # what ended a worker, and what held one of its places for tickets for ever
    ("ticket", b"[" * 100_000),
    ("ticket", b'{"a":' * 100_000),
    ("ticket", b'{"properties": {"delivery_tag": {}}}'),
    # a half character in the pieces of a tool's arguments; pieces that are no text
    (
        "reply-claude",
        b'\0\0\1data: {"type":"message_start","message":{"id":"a"}}\n\n'
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"\\ud800"}}\n\n',
    ),
    (
        "reply-claude",
        b'\0\0\1data: {"type":"message_start","message":{"id":"a"}}\n\n'
        b'data: {"type":"content_block_start","index":0,"content_block":{"partial_json":[1]}}\n\n',
    ),
    ("reply-openai-responses", b'\0\0\1data: {"type":"response.output_text.delta","delta":"\\ud800"}\n\n'),
)


@pytest.mark.parametrize(
    ("target", "data"), FOUND, ids=[f"{number}-{target}" for number, (target, _) in enumerate(FOUND)]
)
def test_what_was_found_once_stays_mended(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_an_archive_that_unpacks_to_a_line_without_end_is_refused_in_bounded_memory() -> None:
    TARGETS["container"](gzip.compress(b'{"prompt":"' + b"a" * 5_000_000, 1))


def _answers(reader: str, body: bytes, streamed: bool) -> bool:
    return read_reply(reader, Reply(200, {"content-type": "application/json"}, body), streamed=streamed).failure is None
