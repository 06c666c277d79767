"""Bad lines by their cause, so that one cause is one message however many lines it has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from models.errors import Cause
from models.wording import counted

SHOWN_CAUSES = 20
SHOWN_NUMBERS = 5
_ALIKE = 3
"""So many reasons are shown that differ only in a name or a number: duplicate ids are found one by one, up to here."""
_MOST = 200
_PLURAL = {"has": "have", "is": "are", "ends": "end", "holds": "hold", "asks": "ask", "names": "name"}
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9]+")
"""Quoted texts and numbers in a reason: they differ from line to line while the cause is the same."""


class Causes:
    """Counts the reasons of bad lines in memory that doesn't grow with their number."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[int]]] = {}
        self._alike: dict[str, list[str]] = {}
        self._varying: set[str] = set()

    def add(self, number: int, reason: str) -> None:
        """Counts line `number` under its reason; under the first like it where too many differ only in values."""
        if reason not in self._found:
            kind = _VALUE.sub("…", reason) if len(self._alike) < _MOST else ""
            alike = self._alike.setdefault(kind, [])
            if len(alike) >= _ALIKE:
                reason = alike[-1]
                self._varying.add(reason)
            else:
                alike.append(reason)
        count, numbers = self._found.get(reason, (0, []))
        if len(numbers) < SHOWN_NUMBERS:
            numbers.append(number)
        self._found[reason] = (count + 1, numbers)

    def found(self) -> list[Cause]:
        """Returns the causes in the order in which their first lines stand."""
        return [
            Cause(reason, count, tuple(numbers), reason in self._varying)
            for reason, (count, numbers) in self._found.items()
        ]


def sentences(causes: Sequence[Cause], total: int) -> list[str]:
    """Returns one line for each cause, for people. `total` is the number of bad lines."""
    shown = [f"{_where(cause)}: {_reason(cause)}" for cause in causes[:SHOWN_CAUSES]]
    rest = total - sum(cause.count for cause in causes[:SHOWN_CAUSES])
    return [*shown, f"… and {rest:,} more"] if rest > 0 and causes else shown


def _where(cause: Cause) -> str:
    if cause.count == 1:
        return f"line {cause.lines[0]}"
    numbers = ", ".join(map(str, cause.lines))
    where = f"lines {numbers}" if cause.count == len(cause.lines) else f"{counted(cause.count, 'line')} ({numbers}, …)"
    return f"{where}, such as line {cause.lines[0]}" if cause.varies else where


def _reason(cause: Cause) -> str:
    """Returns the reason, its verb in the plural where it speaks of several lines."""
    verb, _, rest = cause.reason.partition(" ")
    if cause.count == 1 or cause.varies or verb not in _PLURAL:
        return cause.reason
    return f"{_PLURAL[verb]} {rest}"
