"""Tables: whole in pipes, one line a row on a terminal."""

from __future__ import annotations

import io

import pytest

from submit.cli.output import print_table

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
