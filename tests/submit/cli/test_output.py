"""Tables: whole in pipes, one line a row on a terminal, blocks on a narrow one; and what becomes of output that nobody reads."""

from __future__ import annotations

import io
import os
import sys

import pytest
from rich.console import Console

from submit.cli import app
from submit.cli.output import print_table
from submit.live import LiveView
from submit.progress import Part
from tests.submit.test_progress import a_snapshot

ROW = (17, "id-" + "x" * 500, "succeeded", "refused: the provider said " + "very " * 40 + "much")
COLUMNS = ("position", "id", "status", "error")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(file: io.StringIO) -> list[str]:
    print_table(COLUMNS, [ROW], numbers=("position",), cut=("id", "error"), file=file)
    return file.getvalue().splitlines()


def test_on_a_terminal_long_texts_are_cut_and_the_others_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "70", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    header, row = drawn(Terminal())[:2]
    assert len(row.rstrip()) <= 70
    assert row.count("…") == 2
    assert "17" in row
    assert "succeeded" in row
    assert "position" in header


def test_in_a_pipe_nothing_is_cut() -> None:
    _, row = drawn(io.StringIO())
    assert row.split("  ")[-1].strip() == ROW[3]
    assert ROW[1] in row


@pytest.mark.parametrize("width", [12, 20, 40, 60])
def test_no_figure_is_cut_or_broken_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    columns = ("provider", "model", "calls", "tokens in", "cost")
    row = ("openai", "gpt-4o-mini", "1,234,567", "98,765,432,109", "1234.567890 USD")
    file = Terminal()
    print_table(columns, [row, row], numbers=columns[2:], file=file)
    for word in " ".join(row).split():
        assert file.getvalue().count(word) == 2, file.getvalue()


@pytest.mark.parametrize("width", [30, 70, 120])
def test_a_live_view_shows_whole_figures_in_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    part = Part("openai", 1_234_567, 0, 1_234_567, 98_765_432_109, 98_765_432_109, (("USD", 1_234_567_890_123),), 0)
    seen = a_snapshot(
        total=2_345_678,
        succeeded=1_234_567,
        providers=(part,),
        unserved="no live worker serves openai: start `truckllm worker` or `run`, please",
    )
    file = Terminal()
    console = Console(file=file, force_terminal=True, width=width, no_color=True, soft_wrap=True)
    with LiveView(console) as view:
        view.show(seen)
    assert "please" in file.getvalue()
    assert "1,234,567/2,345,678" in file.getvalue()
    assert "1234.567890123" in file.getvalue()


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_letters_that_the_encoding_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch, errors: str) -> None:
    held = io.BytesIO()
    monkeypatch.setattr(app, "load", lambda _: lambda: print_table(("id",), [("caf\u00e9",)]))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii", errors=errors))
    with pytest.raises(SystemExit) as end:
        app.main({"talk": app.Entry("any:thing", "Talk.")}, ["talk"])
    assert (end.value.code, held.getvalue().split()) == (0, [b"id", b"caf\\xe9"])


@pytest.mark.parametrize("written", ["at once", "as a table", "at the end"])
def test_output_that_nobody_reads_any_more_ends_a_command_as_it_ends_others(
    monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    def talk() -> None:
        if written == "as a table":
            print_table(("n",), [(n,) for n in range(20_000)])
        else:
            sys.stdout.write("x" * (500_000 if written == "at once" else 10))

    monkeypatch.setattr(app, "load", lambda _: talk)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as end:
            app.main({"talk": app.Entry("any:thing", "Talk.")}, ["talk"])
    assert end.value.code == 141
