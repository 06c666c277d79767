"""Results: one line a job, in the dialect its input line came in, in another one, or as CSV.

It does not open files or query the store: `submit.exports` does, in input order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from models.formats import claude, gemini, openai, simple
from models.formats.form import Form
from models.formats.outcome import Outcome, metadata_in
from models.formats.sheet import Sheet

__all__ = ["Form", "Outcome", "Writer", "metadata_in", "result_line"]


_WRITERS: Mapping[str, Callable[[Outcome], bytes]] = {
    dialect.DIALECT: dialect.result for dialect in (simple, openai, claude, gemini)
}


def result_line(outcome: Outcome, dialect: str | None = None) -> bytes:
    """One line of JSON, newline included; `dialect` is that of the input line if it isn't said.

    Raises KeyError for a dialect that `read_lines` never gives.
    """
    return _WRITERS[dialect or outcome.dialect](outcome) + b"\n"


class Writer:
    """Shapes one file of results: `begin` once, then a `line` for each job."""

    def __init__(self, form: Form = Form.JSONL) -> None:
        self._form = form
        self._sheet: Sheet | None = None

    @property
    def needs_replies(self) -> bool:
        """Whether simple lines' results need the raw replies too."""
        return self._form in (Form.OPENAI, Form.CLAUDE, Form.GEMINI)

    def begin(self, first: Iterable[bytes]) -> bytes:
        """What stands before the first line. `first` is the metadata of the first lines, see `metadata_in`: it gives a CSV its
        columns."""
        if self._form is not Form.CSV:
            return b""
        self._sheet = Sheet(first)
        return self._sheet.header()

    def line(self, outcome: Outcome) -> bytes:
        """A job's line, newline included."""
        if self._sheet is not None:
            return self._sheet.row(outcome)
        return result_line(outcome, None if self._form is Form.JSONL else self._form.value)
