"""The memory that inputs may take: of one line, of one file, and of several that are read at the same time."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from models.errors import InputError
from models.formats.fields import Refused
from submit.memory import LARGE_LINE, LargeInput, LineReader
from submit.source import Kept, opened

pytestmark = pytest.mark.usefixtures("home")

READING = """
import sys, threading
from models.config_file import load_config_text
from models.errors import InputError
from models.lanes import Lanes
from submit.batch_options import BatchOptions
from submit.producer import check
from submit.source import opened
from tests.submit.test_archives import peak_mb
lanes = Lanes(load_config_text("providers: [{id: openai, keys: [{id: a, secret: s}]}]"))
def read(path, template):
    try:
        with opened(path, template or None) as source:
            said.append(str(check(source, lanes, BatchOptions(model="m")).total))
    except InputError as error:
        said.append(error.lines[0].reason if error.lines else str(error))
said = []
threads = [threading.Thread(target=read, args=(sys.argv[1], sys.argv[2])) for _ in range(int(sys.argv[3]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(said)[0])
print(peak_mb())
"""


def reading(path: Path, template: str = "", threads: int = 1) -> tuple[str, float]:
    """Checks a file in a process of its own, so many times at once; returns what came out, and the process's peak in MB."""
    done = subprocess.run(
        [sys.executable, "-c", READING, str(path), template, str(threads)], capture_output=True, text=True, check=True
    )
    said, peak = done.stdout.splitlines()
    return said, float(peak)


def line_of(inside: bytes) -> bytes:
    return b'{"prompt": "a", "metadata": ' + inside + b"}\n"


@pytest.mark.full
@pytest.mark.parametrize(
    ("content", "said", "most_mb"),
    [
        (b'{"prompt": "' + b"a" * 50_000_000 + b'"}\n', "1", 800),
        (b'{"prompt": "' + b"a" * 250_000_000 + b'"}\n', "longer than 64 MB", 500),
        (line_of(b"[" + b"{}," * 15_000_000 + b"0]"), "holds so many values", 500),
        (b"a" * 250_000_000, "longer than 64 MB", 500),
    ],
    ids=["a large line", "too large a line", "too many values", "no line at all"],
)
def test_six_archives_of_large_lines_at_once_take_as_much_as_one(
    tmp_path: Path, content: bytes, said: str, most_mb: float
) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(content, 6))
    del content
    assert path.stat().st_size < 300_000
    told, peak = reading(path, threads=6)
    assert told.startswith(said)
    assert peak < most_mb


@pytest.mark.full
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_six_tables_of_large_cells_at_once_take_little(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "csv":
        path.write_bytes(b"text,n\n" + (b"a" * 15_000_000 + b",1\n") * 2)
    else:
        # 200 times the same 15 MB: written out they are 3 GB
        cells = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 200), pyarrow.array(["a" * 15_000_000]))
        table = pyarrow.table({"text": cells})
        parquet.write_table(table, path)
        assert path.stat().st_size < 1_500_000
    told, peak = reading(path, "{text}", threads=6) if kind == "csv" else reading(path, "{text}", threads=1)
    assert told == ("2" if kind == "csv" else "200")
    assert peak < 1300


@pytest.mark.full
def test_a_parquet_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    table = pyarrow.table({"text": ["a" * 200_000_000] * 3})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    del table
    assert path.stat().st_size < 300_000
    told, peak = reading(path, "{text}")
    assert "the column 'text' takes" in told
    assert peak < 250


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress])
def test_blank_lines_in_an_archive_are_passed_over_quickly_and_counted(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "in.jsonl.packed"
    path.write_bytes(pack(b"\n" * 64_000_000 + b"{\n"))
    told, peak = reading(path)
    assert told.startswith("truncated")
    assert peak < 250


def test_what_an_archive_holds_has_a_bound_where_one_is_set() -> None:
    content = gzip.compress(b'{"prompt": "a"}\n' * 1000)
    with opened(Kept(io.BytesIO(content)), most=16_000) as source, source.open() as (stream, _):
        assert len(stream.read()) == 16_000
    words = "unpacks to more than 15,999 bytes"
    with pytest.raises(InputError, match=words), opened(Kept(io.BytesIO(content)), most=15_999) as source:  # noqa: SIM117
        with source.open() as (stream, _):
            stream.read()


def reader(content: bytes, large: LargeInput) -> LineReader:
    return LineReader(io.BufferedReader(io.BytesIO(content)), large)  # type: ignore[arg-type]


def test_lines_are_those_of_the_file_whatever_their_length() -> None:
    lines = [b"a" * size + b"\n" for size in (0, 1, 1024 * 1024 - 1, 1024 * 1024, 5_000_000, LARGE_LINE + 1, 3)] + [
        b"end"
    ]
    large = LargeInput()
    lines_read = reader(b"".join(lines), large)
    assert list(iter(lambda: lines_read.readline(1000), b"")) == lines
    large.close()


def test_who_reads_a_large_line_waits_for_the_one_before() -> None:
    first, second = LargeInput(), LargeInput()
    line = b"a" * (LARGE_LINE + 1) + b"\n"
    one, other = reader(line + b"b\n", first), reader(line, second)
    assert len(one.readline()) == len(line)
    read: list[int] = []
    thread = threading.Thread(target=lambda: read.append(len(other.readline())), daemon=True)
    thread.start()
    assert read == []
    assert one.readline() == b"b\n"
    thread.join(60)
    assert read == [len(line)]
    second.close()


def test_commas_in_texts_are_no_values() -> None:
    large = LargeInput()
    line = json.dumps({"prompt": "1,2,{3}," * 1_500_000}).encode() + b"\n"
    assert reader(line, large).readline() == line
    large.close()
    with pytest.raises(Refused, match="holds so many values"):
        reader(line_of(b"[" + b"{}," * 5_000_000 + b"0]"), large).readline()
    large.close()
