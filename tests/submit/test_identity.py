"""The identity of an input is its bytes, whatever reads them and however far; a file that changes meanwhile is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import submit.loading
from models.database import Database
from models.errors import InputError
from submit.identity import HashedFile
from submit.producer import Submitted
from submit.source import Kept, opened

pytestmark = pytest.mark.usefixtures("home")

LINE = st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=200).map(str.encode)
TEXTS = st.lists(LINE, max_size=60).map(lambda lines: b"\n".join(lines))
STEPS = st.lists(st.tuples(st.sampled_from(["readline", "read", "peek"]), st.integers(-1, 5000)), max_size=8)
SEEKS = st.lists(st.tuples(st.integers(0, 6000), st.integers(-1, 6000)), max_size=8)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": lambda content: zstandard.ZstdCompressor().compress(content),
}
anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
@given(content=TEXTS, steps=STEPS)
@anything
def test_what_a_reader_reads_changes_nothing(
    pack: Callable[[bytes], bytes], content: bytes, steps: list[tuple[str, int]]
) -> None:
    """A reader may stop anywhere, as --limit does, and read by lines or by blocks."""
    lying = pack(content)
    with opened(Kept(io.BytesIO(lying))) as source:
        for _ in range(2):
            with source.open() as (stream, identity):
                for how, size in steps:
                    getattr(stream, how)(size)
                assert identity.sha256() == digest(lying)


@given(content=st.binary(max_size=5000), seeks=SEEKS)
@anything
def test_where_a_reader_seeks_changes_nothing(content: bytes, seeks: list[tuple[int, int]]) -> None:
    file = io.BytesIO(content)
    whole = HashedFile(file, "in")
    for place, size in seeks:
        file.seek(place)
        file.read(size)
    assert whole.sha256() == whole.sha256() == digest(content)


@given(content=st.binary(min_size=1, max_size=300), place=st.integers(0, 299), seeks=SEEKS)
@anything
def test_a_byte_that_changes_while_a_reader_seeks_is_found(
    content: bytes, place: int, seeks: list[tuple[int, int]]
) -> None:
    file = io.BytesIO(content)
    whole = HashedFile(file, "in.parquet")
    file.getbuffer()[place % len(content)] ^= 1
    for at, size in seeks:
        file.seek(at)
        file.read(size)
    with pytest.raises(InputError, match=r"in\.parquet changed while it was being read"):
        whole.sha256()


def table(rows: int, groups: int) -> bytes:
    lying = io.BytesIO()
    text = [f"question {number}" for number in range(rows)]
    columns = pyarrow.table({"id": list(range(rows)), "prompt": text, "none": [None] * rows})
    parquet.write_table(columns, lying, row_group_size=groups)
    return lying.getvalue()


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize(("rows", "groups"), [(3, 3), (40, 10), (2000, 700)])
def test_a_parquet_file_is_one_batch_however_often_it_comes(
    put: Callable[..., Submitted], tmp_path: Path, rows: int, groups: int, limit: int | None
) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(table(rows, groups))
    done = [put(path, model="gpt-4o", limit=limit) for _ in range(12)]
    assert [(one.batch_id, one.found) for one in done] == [(done[0].batch_id, "new")] + [
        (done[0].batch_id, "resumed")
    ] * 11


def piped(path: Path, content: bytes) -> str:
    os.mkfifo(path)
    threading.Thread(target=lambda: path.write_bytes(content), daemon=True).start()
    return str(path)


@pytest.mark.parametrize("kind", ["lines", "gzip", "zstd", "parquet"])
def test_a_file_a_stream_an_upload_and_a_pipe_of_the_same_bytes_are_one_batch(
    put: Callable[..., Submitted], tmp_path: Path, kind: str
) -> None:
    lines = b'{"prompt": "a"}\n' * 3
    content = {"lines": lines, "gzip": gzip.compress(lines), "zstd": PACK["zstd"](lines), "parquet": table(3, 2)}[kind]
    (tmp_path / "in").write_bytes(content)
    given = (tmp_path / "in", io.BytesIO(content), Kept(io.BytesIO(content)), piped(tmp_path / "pipe", content))
    done = [put(one, model="gpt-4o") for one in given]
    assert [one.found for one in done] == ["new", "resumed", "resumed", "resumed"]


@pytest.mark.parametrize("kind", ["lines", "parquet"])
def test_stdin_of_the_same_bytes_has_the_same_identity(tmp_path: Path, kind: str) -> None:
    content = table(40, 7) if kind == "parquet" else b'{"prompt": "a", "model": "m"}\n' * 3
    program = (
        "from submit.source import opened\n"
        "with opened('-') as source, source.open() as (stream, identity):\n"
        "    stream.readline()\n"
        "    print(identity.sha256())"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert done.stdout.decode().strip() == digest(content)


def test_a_parquet_file_that_is_replaced_between_check_and_load_is_refused(
    put: Callable[..., Submitted], database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.parquet"
    path.write_bytes(table(40, 10))
    begin = submit.loading.begin

    def replaced(*order: object) -> object:
        path.write_bytes(table(40, 20))  # the same rows in other bytes
        return begin(*order)  # type: ignore[arg-type]

    monkeypatch.setattr("submit.producer.begin", replaced)
    with pytest.raises(InputError, match="changed while it was being read: nothing was enqueued"):
        put(path, model="gpt-4o")
