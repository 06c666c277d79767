"""CSV and Parquet: rows become simple lines by a template, other columns are carried along, bad rows are told by number."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from models.config_file import load_config_text
from models.errors import BadLine, InputError, UsageError
from models.formats.lines import Line, read_lines
from models.formats.simple import simple_input
from models.lanes import Lanes
from submit.columns import Template
from submit.source import opened

LANES = Lanes(load_config_text("providers: [{id: openai, keys: [{id: a, secret: s}]}]"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Line | BadLine]]:
    def read(content: str | bytes, template: str | None = None, name: str = "t.csv") -> list[Line | BadLine]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with opened(path, template) as source, source.open() as (stream, _):
            return list(read_lines(stream, LANES, model="m"))

    return read


def rows(lines: Sequence[Line | BadLine]) -> list[dict[str, Any]]:
    assert all(isinstance(line, Line) for line in lines), lines
    return [json.loads(line.body) for line in lines if isinstance(line, Line)]


Read = Callable[..., list[Line | BadLine]]


def test_each_row_fills_the_template_and_carries_its_columns(read: Read) -> None:
    lines = read('text,lang\nHello,fr\n"a, ""b""\nc",de\n', "Translate to {lang}: {text}")
    assert rows(lines) == [
        {"prompt": "Translate to fr: Hello", "metadata": {"text": "Hello", "lang": "fr"}},
        {"prompt": 'Translate to de: a, "b"\nc', "metadata": {"text": 'a, "b"\nc', "lang": "de"}},
    ]
    assert [line.custom_id for line in lines if isinstance(line, Line)] == ["line-2", "line-3"]


def test_metadata_is_never_sent(read: Read) -> None:
    (line,) = read("text,note\nHello,secret\n", "{text}")
    assert isinstance(line, Line)
    assert simple_input(line.body) == {"messages": [{"role": "user", "content": "Hello"}]}


def test_columns_named_as_fields_of_a_simple_line_mean_the_same(read: Read) -> None:
    (line, second) = read("id,system,model,prompt,x\n7,Be brief.,own,Hi,1\nb,,,Ho,2\n")
    assert rows([line, second]) == [
        {"id": "7", "system": "Be brief.", "model": "own", "prompt": "Hi", "metadata": {"x": "1"}},
        {"id": "b", "prompt": "Ho", "metadata": {"x": "2"}},
    ]
    assert isinstance(line, Line)
    assert line.custom_id == "7"


def test_a_column_that_the_template_uses_is_only_text(read: Read) -> None:
    assert rows(read("model,system\nGolf,ABS\n", "What is a {model}?")) == [
        {"system": "ABS", "prompt": "What is a Golf?", "metadata": {"model": "Golf"}}
    ]


def test_literal_braces_are_doubled(read: Read) -> None:
    assert rows(read("a\nx\n", 'Answer {{"is": "{a}"}}'))[0]["prompt"] == 'Answer {"is": "x"}'


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("say {a", "a single {"),
        ("say a}", "a single } at character 6"),
        ("say it", "names no column"),
        ("{{a}}", "names no column"),
    ],
)
def test_a_template_that_cant_be_is_refused(template: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        Template(template)
    assert words in str(refused.value)


def test_an_unknown_column_is_an_error_that_names_those_there_are(read: Read) -> None:
    with pytest.raises(InputError, match=r"column 'txt' isn't there: .*t.csv has the columns text, lang"):
        read("text,lang\na,b\n", "{txt}")


def test_without_a_template_there_must_be_a_prompt(read: Read) -> None:
    with pytest.raises(
        InputError, match="columns text, lang, and none named prompt: specify the prompt with --template"
    ):
        read("text,lang\na,b\n")


def test_json_lines_have_no_columns_to_fill(read: Read) -> None:
    with pytest.raises(UsageError, match="CSV, Excel or Parquet"):
        read('{"prompt": "a"}\n', "{a}", "prompts.jsonl")


@pytest.mark.parametrize(
    "content",
    ["\ufefftext,n\r\ncafé,1\r\n", "text;n\ncafé;1\n", "text\tn\ncafé\t1", "text,n\n\ncafé,1\n\n"],
    ids=["Excel's", "semicolons", "tabs", "blank lines"],
)
def test_csv_as_others_write_it(read: Read, content: str) -> None:
    assert rows(read(content, "{text}")) == [{"prompt": "café", "metadata": {"text": "café", "n": "1"}}]


def test_a_bad_row_is_told_by_the_number_that_a_spreadsheet_shows(read: Read) -> None:
    lines = read(b'text,n\nok,1\nonly\n\xff\xfe,2\n"a"b,3\nok,4\n"never ends,5\n', "{text}")
    bad = {line.number: line.reason for line in lines if isinstance(line, BadLine)}
    assert bad == {
        3: "has 1 cell, and the header has 2: nothing stands for the column 'n'",
        4: "the column 'text' is not UTF-8: save the file as UTF-8, or name its encoding with --encoding (cp1252 for most files of "
        "Excel on Windows)",
        5: "not CSV: ',' expected after '\"'; a quote inside a quoted cell is written twice",
        7: 'a cell that begins with " never ends',
    }
    assert [line.number for line in lines if isinstance(line, Line)] == [2, 6]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"te\xffxt\na\n", "header is not UTF-8"),
        (b"a,b,a\n1,2,3\n", "'a' stands twice in the header, in columns 1 and 3: rename"),
        (b"\n1,2\n", "no header"),
        (b"", "no header"),
    ],
)
def test_a_header_that_cant_be_read_is_an_error(read: Read, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(content, "{a}")


def test_a_csv_may_be_compressed_and_come_without_a_name_that_tells(read: Read) -> None:
    packed = gzip.compress(b"text\nHi\n")
    assert rows(read(packed, "{text}", "t.csv.gz")) == rows(read(packed, "{text}", "nameless"))


def test_a_million_characters_in_a_cell_are_fine(read: Read) -> None:
    assert len(rows(read("text\n" + "a" * 1_000_000, "{text}"))[0]["prompt"]) == 1_000_000


def test_the_columns_come_back_with_the_results(read: Read) -> None:
    from models.formats.results import Outcome, result_line

    (line,) = read("text,lang\nHi,fr\n", "{text}")
    assert isinstance(line, Line)
    result = json.loads(result_line(Outcome(line.custom_id, "simple", "succeeded", body=line.body)))
    assert result["metadata"] == {"text": "Hi", "lang": "fr"}


# Parquet


def write(path: Path, columns: Mapping[str, Any], **options: Any) -> Path:
    parquet.write_table(pyarrow.table(dict(columns)), path, **options)
    return path


def test_parquet_rows_keep_their_types(tmp_path: Path, read: Read) -> None:
    moment = datetime.datetime(2026, 5, 1, 12, 30, tzinfo=datetime.UTC)
    path = write(
        tmp_path / "in.parquet",
        {
            "id": [1, 2],
            "text": ["a", None],
            "n": [1.5, float("nan")],
            "yes": [True, None],
            "at": pyarrow.array([moment, None], pyarrow.timestamp("ns", "UTC")),
            "sum": [decimal.Decimal("1.20"), None],
            "raw": [b"\xff", b"ok"],
            "list": [[1, 2], []],
        },
    )
    lines = read(path.read_bytes(), "{text} {n} {yes} {at} {sum} {list}", "any-name")
    first, second = rows(lines)
    assert first["prompt"] == "a 1.5 true 2026-05-01T12:30:00+00:00 1.20 [1,2]"
    assert second["prompt"] == "     []"
    assert first["metadata"] == {
        "text": "a",
        "n": 1.5,
        "yes": True,
        "at": "2026-05-01T12:30:00+00:00",
        "sum": "1.20",
        "raw": "/w==",
        "list": [1, 2],
    }
    assert second["metadata"]["n"] is None
    assert [(line.number, line.custom_id) for line in lines if isinstance(line, Line)] == [(1, "1"), (2, "2")]


def test_an_unknown_column_of_a_parquet_file_is_an_error_too(tmp_path: Path, read: Read) -> None:
    content = write(tmp_path / "in", {"text": ["a"]}).read_bytes()
    with pytest.raises(InputError, match="has the columns text"):
        read(content, "{b}", "in.parquet")


def test_a_parquet_file_that_isnt_whole_is_an_error(tmp_path: Path, read: Read) -> None:
    content = write(tmp_path / "in", {"text": ["a"] * 1000}).read_bytes()
    with pytest.raises(InputError, match="no whole Parquet file"):
        read(content[:-20], "{text}", "in.parquet")
    with pytest.raises(InputError, match="inside an archive"):
        read(gzip.compress(content), "{text}", "in.parquet.gz")


def test_without_pyarrow_the_error_says_what_to_install(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write(tmp_path / "in", {"text": ["a"]}).read_bytes()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'truckllm\[parquet\]'"):
        read(content, "{text}", "in.parquet")


@pytest.mark.full
def test_memory_stays_flat_over_a_parquet_file_of_one_row_group(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    writing = (  # in a process of its own, as much as it takes
        "import pyarrow, sys; from pyarrow import parquet\n"
        "text = [''.join(chr(97 + (n * k) % 26) for k in range(1000)) for n in range(1000)] * 200\n"
        "parquet.write_table(pyarrow.table({'text': text}), sys.argv[1], row_group_size=len(text), use_dictionary=False)"
    )
    subprocess.run([sys.executable, "-c", writing, str(path)], check=True)
    program = (
        "import sys; from tests.submit.test_columns import LANES; from tests.submit.test_archives import peak_mb\n"
        "from submit.producer import check\n"
        "from submit.batch_options import BatchOptions; from submit.source import opened\n"
        "with opened(sys.argv[1], '{text}') as given:\n"
        "    print(check(given, LANES, BatchOptions(model='m')).total)\n"
        "print(peak_mb())"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    total, peak = map(float, done.stdout.split())
    assert total == 200_000
    assert peak < 250
