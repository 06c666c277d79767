"""CSV as spreadsheets and other tools write it: separators, line ends, encodings, rows without content."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.config_file import load_config_text
from models.errors import BadLine, InputError, UsageError
from models.formats.lines import Line, read_lines
from models.lanes import Lanes
from submit.batch_options import BatchOptions
from submit.producer import check
from submit.source import Kept, opened

LANES = Lanes(load_config_text("providers: [{id: openai, keys: [{id: a, secret: s}]}]"))
pytestmark = pytest.mark.usefixtures("home")


def read(
    content: str | bytes, template: str | None = "{text}", name: str = "t.csv", **options: Any
) -> list[Line | BadLine]:
    data = content.encode() if isinstance(content, str) else content
    path = Path(name)
    path.write_bytes(data)
    with opened(path, template, **options) as source, source.open() as (stream, _):
        return [line for line in read_lines(stream, LANES, model="m") if isinstance(line, Line | BadLine)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(lines: Sequence[Line | BadLine]) -> list[str]:
    return [line.reason if isinstance(line, BadLine) else json.loads(line.body)["prompt"] for line in lines]


def refused(content: str | bytes, template: str | None = "{text}", **options: Any) -> str:
    with pytest.raises((InputError, UsageError)) as caught:
        read(content, template, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("sep=;\r\nid;text\r\n1;hello\r\n2;bye\r\n", ["hello", "bye"]),
        ("\ufeffSEP=|\nid|text\n1|a;b,c\n", ["a;b,c"]),
        ('"sep=\t"\nid\ttext\n1\thi\n', ["hi"]),
        ("id,text\r1,hello\r2,bye\r", ["hello", "bye"]),
        ('id,text\r1,"two\rlines"\r', ["two\rlines"]),
        ('id,text\r\n1,"two\r\nlines"\r\n', ["two\r\nlines"]),
        ("id|text\n1|hello, you\n", ["hello, you"]),
        ('"id, or number";text;"a, b"\n1;hello;x\n2;bye;y\n', ["hello", "bye"]),
        ("id;text, in German\n1;ja, gut\n", None),
        ("id;price, EUR;text\n1;2,50;a\n2;3,10;b\n", ["a", "b"]),
        ('"id";"text"\n"1";"a;b"\n', ["a;b"]),
        ("text\nhello, you; there\n", None),
        ("text\nhello\n", ["hello"]),
        ('text,n\n"a\u2028b\u0085c",1\n', ["a\u2028b\u0085c"]),
    ],
)
def test_the_separator_and_the_line_ends_are_found(content: str, texts: list[str] | None) -> None:
    if texts is None:  # a separator that only the rows have isn't the header's
        template = "{text, in German}" if "German" in content else "{text}"
        lines = read(content, template)
        assert asked(lines) == (
            ["ja, gut"]
            if "German" in content
            else ["has 2 cells, and the header has 1: a cell that holds ',' must stand in double quotes"]
        )
        return
    assert asked(read(content)) == texts


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=12)


@given(
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\r\n", "\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example(rows=[["", "", ""], ["a", "", ""]], separator=",", end="\n", encoding="utf-8", quoting=csv.QUOTE_ALL)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_a_csv_writer_writes_is_read_as_it_was(
    rows: list[list[str]], separator: str, end: str, encoding: str, quoting: Any
) -> None:
    out = io.StringIO()
    quoting = quoting if end == "\r\n" else csv.QUOTE_ALL  # Python's writer quotes only the line ends that it writes
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(["one", "two", "three"])
    writer.writerows([*rows, ["", "", ""]])
    content = out.getvalue().encode(encoding)
    lines = read(content, "{one}{two}{three}!")
    filled = [index for index, row in enumerate(rows) if any(cell.strip() for cell in row)]
    kept = rows[: filled[-1] + 1] if filled else []
    found = [line for line in lines if isinstance(line, Line)]
    whole = [row for row in kept if any(cell.strip() for cell in row)]
    assert [
        list(json.loads(line.body)["metadata"].values())
        for line in found
        if any(cell.strip() for cell in json.loads(line.body)["metadata"].values())
    ] == whole


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_unicode_encodings_are_found_in_tables_and_lines(encoding: str) -> None:
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    assert asked(read((mark + "id\ttext\n1\tcafé 🌍\n").encode(encoding))) == ["café 🌍"]
    lines = (mark + '{"prompt": "café 🌍"}\r\n').encode(encoding)
    assert asked(read(lines, None, "in.jsonl")) == ["café 🌍"]


def test_utf_16_without_a_mark_is_found_by_its_nuls() -> None:
    assert asked(read("id,text\n1,hé\n".encode("utf-16-le"))) == ["hé"]
    assert asked(read("id,text\n1,hé\n".encode("utf-16-be"))) == ["hé"]


def test_other_encodings_are_named_by_the_user() -> None:
    content = "id;text\n1;café – naïve\n".encode("cp1252")
    assert asked(read(content, encoding="cp1252")) == ["café – naïve"]
    assert asked(read("id,text\n1,日本\n".encode("shift_jis"), encoding="shift_jis")) == ["日本"]
    (reason,) = asked(read(content))
    assert reason.startswith(
        "the column 'text' is not UTF-8: save the file as UTF-8, or name its encoding with --encoding"
    )


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (b"id,text\n1,\x81\n", {"encoding": "cp1252"}, "is not cp1252 near byte"),
        (b"\xff\xfei\x00d\x00", {}, "has the columns id"),
        ("id,text\n1,é\n".encode("utf-16")[:-1], {}, "is not utf-16"),
        (b"id,text\n", {"encoding": "no-such"}, "there is no encoding 'no-such'"),
        (b"id,text\n", {"encoding": "base64"}, "there is no encoding 'base64'"),
        (b"id,text\n", {"sheet": "one"}, "--sheet names a sheet of an Excel file"),
    ],
)
def test_an_encoding_that_is_wrong_is_one_error(content: bytes, options: dict[str, str], words: str) -> None:
    assert words in refused(content, **options)


def test_the_encoding_and_the_sheet_make_another_batch() -> None:
    stored = BatchOptions.of(encoding="CP1252", sheet="a", template="{x}").stored()
    assert json.loads(stored) == {"encoding": "cp1252", "sheet": "a", "template": "{x}"}
    assert BatchOptions.of(encoding="UTF8").stored() == "{}"


# Rows without content


@pytest.mark.parametrize("end", [",,\n,,\n", ",,\n\n,,,,\n", " , ,\t\n,\n", ',"",\r\n'])
def test_rows_of_separators_at_the_end_are_no_rows(end: str) -> None:
    lines = read("id,text,label\n1,hello,x\n" + end, "Q: {text}")
    assert asked(lines) == ["Q: hello"]


def test_a_row_without_content_between_others_has_an_empty_prompt() -> None:
    """It isn't asked as the template's words alone; what becomes of it is one policy for all inputs."""
    content = io.BytesIO(b"id,text,label\n1,hello,x\n,,\n2,bye,y\n3,,z\n")
    with opened(Kept(content), "Q: {text}") as source, source.open() as (stream, _):
        prompts = [json.loads(line)["prompt"] for line in iter(stream.readline, b"") if line.strip()]
    assert prompts == ["Q: hello", "", "Q: bye", ""]


def test_a_template_of_empty_cells_is_filled_where_that_is_asked_for() -> None:
    with opened(Kept(io.BytesIO(b"text,n\n,1\n")), "Q: {text}", ask_empty=True) as source, source.open() as (stream, _):
        lines = [line for line in iter(stream.readline, b"") if line.strip()]
    assert json.loads(lines[0])["prompt"] == "Q: "


def test_a_template_of_which_one_cell_has_a_value_is_filled() -> None:
    assert asked(read("text,context\nWhy?,\n", "{context}{text}")) == ["Why?"]


def test_blank_cells_of_our_own_columns_mean_nothing() -> None:
    (line,) = read("id,model,system,max_tokens,prompt\n, ,\t,,Hi\n", None)
    assert isinstance(line, Line)
    assert json.loads(line.body) == {"prompt": "Hi"}


def test_numbers_are_numbers_as_tools_write_them() -> None:
    (line,) = read("prompt,max_tokens,temperature,score\nHi,5.0,0.5,7\n", None)
    assert isinstance(line, Line)
    assert json.loads(line.body) == {"prompt": "Hi", "max_tokens": 5, "temperature": 0.5, "metadata": {"score": "7"}}
    (line,) = read("text,max_tokens,temperature\nHi,5,36.6 °C\n")
    assert isinstance(line, Line)
    assert json.loads(line.body)["max_tokens"] == 5
    assert json.loads(line.body)["metadata"]["temperature"] == "36.6 °C"
    (bad,) = read("prompt,max_tokens\nHi,many\n", None)
    assert isinstance(bad, BadLine)
    assert "max_tokens" in bad.reason


def test_an_index_without_a_name_is_carried_and_empty_columns_are_not() -> None:
    lines = read(',text,,\n0,hello,,\n1,"a, ""quoted"" one\nsecond line",,x\n')
    assert [json.loads(line.body) for line in lines if isinstance(line, Line)] == [
        {"prompt": "hello", "metadata": {"column-1": "0", "text": "hello"}},
        {
            "prompt": 'a, "quoted" one\nsecond line',
            "metadata": {"column-1": "1", "text": 'a, "quoted" one\nsecond line', "column-4": "x"},
        },
    ]


# Errors


@pytest.mark.parametrize(
    ("content", "template", "words"),
    [
        ("a,text,a\n1,2,3\n", "{text}", "'a' stands twice in the header, in columns 1 and 3: rename one of them"),
        ("Text,n\nx,1\n", "{text}", "(upper and lower case count: 'Text' is there)"),
        ("Prompt,n\nx,1\n", None, "(upper and lower case count: 'Prompt' is there)"),
        (",,\n1,2,3\n", "{text}", "has no header"),
        ("column-2,,text\n1,2,3\n", "{text}", "'column-2' stands twice"),
    ],
)
def test_a_header_that_is_ambiguous_is_refused_with_the_way_out(content: str, template: str | None, words: str) -> None:
    assert words in refused(content, template)


def test_ragged_rows_name_what_is_missing_or_too_much() -> None:
    assert asked(read("id,text\n1\n2,a,b\n3,c,,\n")) == [
        "has 1 cell, and the header has 2: nothing stands for the column 'text'",
        "has 3 cells, and the header has 2: a cell that holds ',' must stand in double quotes",
        "c",
    ]


def test_a_quote_that_never_ends_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "quote.csv"
    with path.open("w") as file:
        file.write('id,text\n1,a\n2,"')
        for _ in range(20):
            file.write("x" * 1_000_000 + "\n")
    words = "row 3 is longer than 16 MB: is a quote before it never closed"
    with pytest.raises(InputError, match=words), opened(path, "{text}") as source:
        check(source, LANES, BatchOptions(model="m"))


def test_a_table_without_a_name_is_known_by_its_prompt_column() -> None:
    assert asked(read('id,"prompt"\n1,hello\n', None, "nameless")) == ["hello"]
    assert asked(read("id,text\n1,hello\n", name="T.CSV")) == ["hello"]


def test_many_rows_are_sniffed_by_the_first_of_them() -> None:
    generator = random.Random(7)
    rows = "".join(f"{n};{generator.choice(['a, b', 'c', 'd, e, f'])}\n" for n in range(2000))
    assert len(read("id;text\n" + rows)) == 2000


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("number", [999, 1003, 70_000, 200_001])
def test_many_empty_lines_are_passed_over_together_and_counted(end: str, number: int) -> None:
    content = end.join(["text,n", "a,1", *[""] * number, '"b', 'c",2', ",", "", "", "d,3", "e", ""])
    lines = read(content)
    assert [(line.number, text) for line, text in zip(lines, asked(lines), strict=True) if text][:1] == [(2, "a")]
    found = {line.number: text for line, text in zip(lines, asked(lines), strict=True)}
    assert found[number + 3] == f"b{end}c"
    assert found[number + 7] == "d"
    assert found[number + 8].startswith("has 1 cell")


def test_millions_of_empty_lines_of_a_table_take_no_time() -> None:
    assert asked(read("text\na\n" + "\n" * 30_000_000 + "b\n")) == ["a", "b"]
