"""Blank lines, of which a small archive holds millions: passed over together, and counted one by one."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from models.formats.lines import read_lines
from submit.memory import LargeInput, LineReader
from tests.fuzz.targets import _LANES

LINES = st.sampled_from(
    [b'{"prompt":"a","model":"openai/x"}', b"{bad", b'  {"prompt":"b","model":"openai/x"}', b"\xef\xbb\xbf"]
)
BLANK = st.tuples(st.sampled_from([b"", b"  ", b"\r", b"\t"]), st.sampled_from([0, 1, 999, 1001, 5000]))


def reader(data: bytes) -> LineReader:
    return LineReader(io.BufferedReader(io.BytesIO(data)), LargeInput())  # type: ignore[arg-type]


@given(st.lists(st.tuples(BLANK, LINES), max_size=6), st.sampled_from([b"", b"\n", b"\n\n"]))
def test_lines_keep_their_numbers(parts: list[tuple[tuple[bytes, int], bytes]], end: bytes) -> None:
    data = b"\n".join(line for (blank, many), last in parts for line in [*[blank] * many, last]) + end
    plain = [(line.number, type(line)) for line in read_lines(io.BytesIO(data), _LANES)]
    assert [(line.number, type(line)) for line in read_lines(reader(data), _LANES)] == plain  # type: ignore[arg-type]


def test_millions_are_few_reads() -> None:
    lines = reader(b"\n" * 5_000_000 + b"{}\n")
    reads = 0
    while lines.readline():
        reads += 1
    assert reads < 2000
