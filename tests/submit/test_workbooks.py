"""Excel files: which sheet, which values, what is refused, and how much memory they may take."""

from __future__ import annotations

import datetime
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from models.config_file import load_config_text
from models.errors import BadLine, InputError, UsageError
from models.formats.lines import Line, read_lines
from models.lanes import Lanes
from submit.batch_options import BatchOptions
from submit.producer import Submitted, check
from submit.source import Kept, opened

LANES = Lanes(load_config_text("providers: [{id: openai, keys: [{id: a, secret: s}]}]"))
pytestmark = pytest.mark.usefixtures("home")


HEAD = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
TEXTS = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
SHARED = (
    '<Override PartName="/xl/sharedStrings.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"/>'
)


def workbook(*rows: Sequence[Any], name: str = "One", change: Callable[[Any], None] = lambda _: None) -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = name
    for row in rows:
        book.active.append(row)
    change(book)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def repacked(content: bytes, **parts: str | bytes) -> bytes:
    """The workbook with other content in some of its parts, by the last word of their names."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        types = old.read("[Content_Types].xml").decode()
        if "sharedStrings" in parts:
            new.writestr("xl/sharedStrings.xml", parts.pop("sharedStrings"))
            types = types.replace("</Types>", f"{SHARED}</Types>")
        for info in old.infolist():
            word = re.split(r"[/.]", info.filename)[-2]
            here = types if info.filename.startswith("[") else old.read(info)
            new.writestr(info.filename, parts.pop(word, None) or here)
        assert not parts
    return out.getvalue()


def read(content: bytes, template: str | None = "{text}", **options: Any) -> list[Line | BadLine]:
    with opened(Kept(io.BytesIO(content)), template, **options) as source, source.open() as (stream, _):
        return [line for line in read_lines(stream, LANES, model="m") if isinstance(line, Line | BadLine)]


def bodies(lines: Sequence[Line | BadLine]) -> list[dict[str, Any]]:
    return [json.loads(line.body) if isinstance(line, Line) else {"bad": line.reason} for line in lines]


def refused(content: bytes, **options: Any) -> str:
    with pytest.raises((InputError, UsageError)) as caught:
        read(content, **options)
    return str(caught.value)


def test_rows_become_lines_with_the_values_that_excel_shows() -> None:
    content = workbook(
        ["id", "text", "n", "share", "yes", "on", "at", "long"],
        [7, "Hello", 5, 0.1 + 0.2, True, datetime.date(2026, 5, 1), datetime.datetime(2026, 5, 1, 12, 30), "a_x000D_b"],
        [None, "Bye", 5.0, None, False, None, None, None],
    )
    lines = read(content, "{text} {n} {on}")
    assert bodies(lines) == [
        {
            "id": 7,
            "prompt": "Hello 5 2026-05-01",
            "metadata": {
                "text": "Hello",
                "n": 5,
                "share": 0.3,
                "yes": True,
                "on": "2026-05-01",
                "at": "2026-05-01T12:30:00",
                "long": "a\rb",
            },
        },
        {
            "prompt": "Bye 5 ",
            "metadata": dict.fromkeys(["share", "on", "at", "long"]) | {"text": "Bye", "n": 5, "yes": False},
        },
    ]
    assert [(line.number, line.custom_id) for line in lines if isinstance(line, Line)] == [(2, "7"), (3, "line-3")]


def test_the_first_row_that_isnt_blank_is_the_header_and_rows_are_numbered_as_excel_shows_them() -> None:
    content = workbook([], [None, " "], ["text", "n", None], ["a", 1], [], ["b", 2], [None, ""], [])
    lines = read(content, "{text}{n}")
    assert [(line.number, json.loads(line.body)["prompt"]) for line in lines if isinstance(line, Line)] == [
        (4, "a1"),
        (6, "b2"),
    ]


def several(book: Any) -> None:
    book.active.sheet_state = "hidden"
    for name, text in (("Two", "two"), ("Three", "three")):
        sheet = book.create_sheet(name)
        sheet.append(["text"])
        sheet.append([text])


def test_the_first_visible_sheet_is_read_or_the_one_that_is_named() -> None:
    content = workbook(["text"], ["one"], change=several)
    assert [body["prompt"] for body in bodies(read(content))] == ["two"]
    assert [body["prompt"] for body in bodies(read(content, sheet="Three"))] == ["three"]
    assert [body["prompt"] for body in bodies(read(content, sheet="One"))] == ["one"]
    assert refused(content, sheet="two").endswith("has no sheet 'two': it has 'One', 'Two', 'Three'")


def test_other_sheets_that_are_visible_are_mentioned_once(put: Callable[..., Submitted], tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    path.write_bytes(workbook(["text"], ["one"], change=several))
    done = put(path, template="{text}", model="gpt-4o")
    assert done.warnings == (f"{path} has 2 sheets: 'Two' is read; --sheet NAME reads another ('One', 'Two', 'Three')",)
    again = [put(path, template="{text}", model="gpt-4o") for _ in range(5)]
    assert {(one.batch_id, one.found) for one in again} == {(done.batch_id, "resumed")}
    assert put(path, template="{text}", model="gpt-4o", sheet="Two", new=True).warnings == ()


def test_formulas_give_the_values_that_were_saved_with_them() -> None:
    content = workbook(["text", "n"], ["=A9", "=1+1"], ["=1/0", 2])
    sheet = zipfile.ZipFile(io.BytesIO(content)).read("xl/worksheets/sheet1.xml").decode()
    saved = sheet.replace("<f>A9</f><v />", "<f>A9</f><v>Hi</v>").replace("<f>A9</f><v/>", "<f>A9</f><v>Hi</v>")
    saved = re.sub(r'(<c r="A2")( t="\w+")?', r'\1 t="str"', saved)
    saved = re.sub(r'<c r="A3"[^>]*><f>1/0</f><v ?/?>(</v>)?', '<c r="A3" t="e"><f>1/0</f><v>#DIV/0!</v>', saved)
    lines = read(repacked(content, sheet1=saved))
    assert bodies(lines)[0] == {"prompt": "Hi", "metadata": {"text": "Hi", "n": None}}
    assert bodies(lines)[1] == {"bad": "the column 'text' holds the error #DIV/0!"}


def test_of_merged_cells_the_first_has_the_value() -> None:
    content = workbook(["text", "n"], ["a", 1], [None, 2], change=lambda book: book.active.merge_cells("A2:A3"))
    assert [body["prompt"] for body in bodies(read(content, "{n}{text}"))] == ["1a", "2"]


def test_values_beyond_the_header_and_columns_that_stand_twice_are_errors() -> None:
    (line,) = read(workbook(["text"], ["a", None, 7]))
    assert isinstance(line, BadLine)
    assert (line.number, line.reason) == (2, "has a value in column 3, which the header gives no name")
    assert "'text' stands twice in the header, in columns 1 and 2" in refused(workbook(["text", "text"], ["a", "b"]))
    assert "has no header" in refused(workbook([]))


def test_without_openpyxl_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = workbook(["text"], ["a"])
    monkeypatch.setitem(sys.modules, "openpyxl.reader.excel", None)
    assert "`pip install 'truckllm[xlsx]'`, or save it as CSV (UTF-8)" in refused(content)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("xl/workbook.bin", "is a binary Excel file (.xlsb): save it as .xlsx"),
        ("word/document.xml", "is a Word document"),
        ("content.xml", "is an OpenDocument file (.ods, .odt): save it as .xlsx"),
        ("Index/Document.iwa", "is a Numbers or Pages document: export it as .xlsx"),
    ],
)
def test_other_documents_are_refused_with_the_way_out(part: str, words: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(part, "x")
    assert words in refused(out.getvalue())


@pytest.mark.parametrize("end", [200, -30])
def test_a_damaged_workbook_is_one_error(end: int) -> None:
    content = workbook(["text"], ["a"])
    assert "is no whole zip archive" in refused(content[:end])
    assert "is no whole Excel file" in refused(repacked(content, workbook="<workbook"))
    assert "is no whole Excel file" in refused(repacked(content, sheet1="<worksheet><sheetData><row r='1'><c>"))


def test_a_cell_far_away_takes_nothing_for_those_between() -> None:
    def far(book: Any) -> None:
        book.active["XFD50000"] = "far"

    lines = read(workbook(["text"], ["a"], change=far))
    assert bodies(lines)[0]["prompt"] == "a"
    assert bodies(lines)[-1] == {"bad": "has a value in column 16384, which the header gives no name"}


def test_texts_that_are_kept_apart_are_read() -> None:
    sheet = (
        f'{HEAD}<row r="1"><c t="s"><v>0</v></c></row><row r="2"><c t="s"><v>1</v></c></row></sheetData></worksheet>'
    )
    texts = f"{TEXTS}<si><t>text</t></si><si><r><t>Hello </t></r><r><t>you</t></r></si></sst>"
    (line,) = bodies(read(repacked(workbook(["x"]), sheet1=sheet, sharedStrings=texts)))
    assert line["prompt"] == "Hello you"


@pytest.mark.parametrize(
    "parts",
    [
        {"sheet1": HEAD + '<row r="1"><c t="inlineStr"><is><t>' + "x" * 20_000_000},
        {"sharedStrings": TEXTS + "<si><t>" + "x" * 20_000_000},
        {"sharedStrings": TEXTS + "<si><t>a</t></si>" * 17_000_000},
        {"styles": " " * 70_000_000},
    ],
    ids=["a cell", "a text", "texts", "styles"],
)
def test_a_workbook_that_unpacks_to_too_much_is_refused(parts: dict[str, str]) -> None:
    content = repacked(workbook(["text"], ["a"]), **parts)
    assert len(content) < 1_000_000
    assert re.search("is too large for an Excel file|of texts, and at most 256 MB", refused(content))


def test_rows_beyond_those_of_excel_are_refused() -> None:
    content = repacked(
        workbook(["text"], ["a"]),
        sheet1=HEAD
        + '<row r="1"><c t="inlineStr"><is><t>text</t></is></c></row><row r="999999999"><c><v>1</v></c></row>'
        "</sheetData></worksheet>",
    )
    with (
        opened(Kept(io.BytesIO(content)), "{text}") as source,
        pytest.raises(InputError, match="more rows than an Excel"),
    ):
        check(source, LANES, BatchOptions(model="m"))
