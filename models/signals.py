"""A signal: the meaning of one way in which a provider refuses a call, as a row of a table.

The built-in rows are in `worker.providers.signals`; a provider's own rows come from `signals:` in the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from models.request import FailureKind, FailureScope

MEANINGS: dict[str, FailureKind] = {
    **{kind.value: kind for kind in FailureKind},
    "no_money": FailureKind.QUOTA,
    "overloaded": FailureKind.SERVER,
    "too_long": FailureKind.CONTEXT_LENGTH,
    "moderation": FailureKind.CONTENT_FILTER,
    "model_not_found": FailureKind.MODEL,
}
"""The meanings by name; the last five are other names for kinds."""
SCOPES: dict[str, FailureScope] = {**{scope.value: scope for scope in FailureScope}, "account": FailureScope.POOL}

UNKNOWN_STATUS = 0
MIDNIGHT = "midnight"
MONTH = "month"
_GAP = r".{0,160}?"


@dataclass(frozen=True, slots=True)
class Wait:
    """How long to wait: `seconds`, or until the next `midnight` or the first of the next `month` in `zone`."""

    seconds: float = 0.0
    until: str = ""
    zone: str = "UTC"

    def from_time(self, now: float) -> float:
        """Returns the wait in seconds from `now` (unix seconds)."""
        if not self.until:
            return self.seconds
        zone = zone_named(self.zone)
        today = datetime.fromtimestamp(now, zone).date()
        first = today + timedelta(days=1)
        if self.until == MONTH:
            first = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        return max(0.0, datetime.combine(first, datetime.min.time(), zone).timestamp() - now)


def zone_named(name: str) -> tzinfo:
    """Returns the time zone. Without a time zone database, California's is winter time and any other UTC."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return timezone(timedelta(hours=-8)) if name == "America/Los_Angeles" else UTC


@dataclass(frozen=True, slots=True)
class Signal:
    """One row: every field that is given must match the reply; of several values in a field, one must.

    `code` is compared with all machine-readable names in the error (code, type, status, reason), `type` with its types only; both
    may hold `*`. `words` are phrases in the error's message: case and white space don't count, `*` stands for up to 160 characters,
    `{model}` for the requested model. `wait` replaces the wait that the reply states. Times without a zone in the message are read
    `hours_east` of UTC. `source` names where the vendor documents it, or the public report.
    """

    name: str
    meaning: FailureKind
    status: tuple[int, ...] = ()
    code: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    scope: FailureScope | None = None
    wait: Wait | None = None
    hours_east: float = 0.0
    source: str = ""
    known_status: bool = False
    """The row's words are too plain to be compared where the status isn't known."""

    def matches(self, error: ErrorFacts, model: str) -> bool:
        """Returns whether the row is about this error of a call of `model`."""
        return (
            self._has_status(error.status)
            and (not self.code or any(_name_pattern(one).fullmatch(code) for one in self.code for code in error.codes))
            and (not self.type or any(_name_pattern(one).fullmatch(kind) for one in self.type for kind in error.types))
            and (not self.words or any(error.says(phrase, model) for phrase in self.words))
        )

    def _has_status(self, status: int) -> bool:
        if not self.status or status in self.status:
            return True
        return status == UNKNOWN_STATUS and not self.known_status and bool(self.code or self.type or self.words)


@dataclass(frozen=True, slots=True)
class ErrorFacts:
    """The parts of an error that a signal is compared with. `status` is `UNKNOWN_STATUS` for an error inside a 200 that names none:
    then rows are compared by their codes and words alone. `codes` holds the types too; `message` has no secrets in it. `asked` returns
    the request's texts: words that a server quotes from them say nothing."""

    status: int
    codes: tuple[str, ...]
    types: tuple[str, ...]
    message: str
    asked: Callable[[], str] | None = None

    def says(self, phrase: str, model: str) -> bool:
        """Returns whether the message holds the phrase in the server's own words."""
        for found in _found(self.message, phrase, model):
            if self.asked is None or self.status not in _QUOTING or not _quoted(self.message, found, self.asked()):
                return True
        return False


_QUOTING = (400, 403, 404, 422, 500)
"""Statuses whose messages may quote the request, as vLLM and FastAPI do of fields that they don't take."""
_AROUND = 16
"""Characters beside a phrase that are compared with the request: with them, a phrase is the request's own."""
_FEWEST = 4


def _quoted(message: str, found: re.Match[str], asked: str) -> bool:
    """Returns whether a phrase and what stands beside it, in front or behind, stand in the request too."""
    before = message[max(0, found.start() - _AROUND) : found.end()]
    behind = message[found.start() : found.end() + _AROUND]
    least = found.end() - found.start() + _FEWEST
    return any(len(part) >= least and part in asked for part in (before, behind))


def has_phrase(message: str, phrase: str, model: str = "") -> bool:
    """Returns whether the message holds the phrase, in which `{model}` stands for the model's name, with or without its path."""
    return next(_found(message, phrase, model), None) is not None


def _found(message: str, phrase: str, model: str) -> Iterator[re.Match[str]]:
    if "{model}" not in phrase:
        yield from _phrase_pattern(phrase, "").finditer(message)
        return
    bare = model.removeprefix("models/")
    for name in sorted({bare, bare.rpartition("/")[2]} - {""}):
        yield from _phrase_pattern(phrase, name).finditer(message)


@lru_cache(4096)
def _phrase_pattern(phrase: str, model: str) -> re.Pattern[str]:
    words = []
    for word in phrase.split():
        parts = [_GAP.join(re.escape(part) for part in text.split("*")) for text in word.split("{model}")]
        words.append((r"(?<![A-Za-z0-9_])" + re.escape(model) + r"(?![A-Za-z0-9])").join(parts))
    start = r"(?<![A-Za-z0-9_])" if phrase[:1].isascii() and phrase[:1].isalnum() else ""
    end = r"(?!\.?\d)" if phrase[-1:].isdigit() else ""
    # a gap between two words takes the white space around it
    text = r"\s+".join(words).replace(r"\s+" + _GAP + r"\s+", _GAP)
    return re.compile(start + text + end, re.IGNORECASE | re.DOTALL)


@lru_cache(4096)
def _name_pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in name.split("*")), re.IGNORECASE | re.DOTALL)


def first_match(signals: tuple[Signal, ...], error: ErrorFacts, model: str) -> Signal | None:
    """Returns the first row that matches, or None."""
    return next((signal for signal in signals if signal.matches(error, model)), None)
