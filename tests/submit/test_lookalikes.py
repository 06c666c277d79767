"""What isn't JSON lines is told in one sentence, and what is stays with its own reasons."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from models.config_file import load_config_text
from models.errors import InputError, UsageError
from models.lanes import Lanes
from submit.producer import check
from submit.source import opened

LANES = Lanes(load_config_text("providers: [{id: openai, keys: [{id: a, secret: s}]}]"))
ARRAY = b'[\n  {"prompt": "x", "model": "m"},\n  {"prompt": "y", "model": "m"}\n]\n'
OBJECT = b'{\n  "prompt": "x",\n  "model": "m"\n}\n'


def refused(path: Path, content: bytes) -> InputError:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught, opened(str(path)) as source:
        check(source, LANES)
    return caught.value


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ARRAY, "holds one JSON array over several lines: write one object a line"),
        (b'[{"prompt": "x", "model": "m"}, {"prompt": "y"}]', "holds one JSON array: write one object a line"),
        (OBJECT, "holds JSON objects over several lines: write each in one line"),
        (OBJECT * 2, "holds JSON objects over several lines"),
        (gzip.compress(OBJECT, mtime=0), "holds JSON objects over several lines"),
        (b"text,n\nhello,1\nbye,2\n", "looks like a table with commas: call it .csv, or give a --template"),
        (b"text;n\nhello;1\n", "looks like a table with semicolons"),
        (b"PK\x03\x04\n\x00\n", "is no whole zip archive"),
        (b"7z\xbc\xaf\x27\x1c\n\x00\n", "is a 7z archive: unpack it"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
            "is an old Excel file (.xls), or one with a password: save it as .xlsx",
        ),
        (b"%PDF-1.7\n", "is a PDF document: it has no rows"),
        (b"ARROW1\0\0", "is an Arrow (Feather) file: write it as Parquet"),
        (b"\n<!DOCTYPE html><table>", "is an HTML page: save it as .xlsx or as CSV"),
        (gzip.compress(b"in.csv".ljust(257, b"\0") + b"ustar\x0000", mtime=0), "is a tar archive: unpack it"),
    ],
)
def test_a_file_that_is_something_else_is_one_error_that_says_what(tmp_path: Path, content: bytes, told: str) -> None:
    error = refused(tmp_path / "in.jsonl", content)
    assert told in str(error)
    assert str(error).endswith("nothing was enqueued")
    assert error.lines == ()


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "x", "model": "m"}\n{\n',
        b'{"prompt": "x"\n',
        b'{"prompt": "x", "model": "m"\n{"prompt": "y", "model": "m"}\n',
        b"hello, world\n",
        b"[]\n",
        b'{"prompt": 1}\n',
    ],
)
def test_bad_lines_keep_their_own_reasons(tmp_path: Path, content: bytes) -> None:
    assert refused(tmp_path / "in.jsonl", content).lines


def test_an_empty_input_is_called_by_a_name_that_people_know(tmp_path: Path) -> None:
    assert str(refused(tmp_path / "in.jsonl", b"\n")).startswith(f"{tmp_path}/in.jsonl is empty")
    with pytest.raises(InputError, match="^the input is empty"), opened([]) as source:
        check(source, LANES)
    with pytest.raises(UsageError, match="name is empty"), opened(""):
        pass
