"""The rows of `signals:` under a provider: how its refusals are read, before the built-in tables."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, model_validator

from models.config_fields import Names, nearest, text_of, wrong
from models.pricing import Node
from models.request import FailureKind, FailureScope
from models.signals import MEANINGS, MIDNIGHT, MONTH, SCOPES, Signal, Wait

_MOST_SECONDS = 40 * 86400
_WAIT = re.compile(r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+(?:\.\d+)?)s?)?", re.IGNORECASE)
_UNTIL = re.compile(rf"(?:until\s+)?({MIDNIGHT}|{MONTH})(?:\s+(\S+))?", re.IGNORECASE)


def _statuses(value: object) -> tuple[int, ...]:
    right = "should be an HTTP status from 400 to 599, like 429, or a list of them; 4xx and 5xx stand for all of a kind"
    found: list[int] = []
    for one in value if isinstance(value, list | tuple) else (value,):
        text = str(one).strip().lower() if isinstance(one, int | str) and not isinstance(one, bool) else ""
        if text in ("4xx", "5xx"):
            found += range(int(text[0]) * 100, int(text[0]) * 100 + 100)
        elif text.isascii() and text.isdigit() and 400 <= int(text) < 600:
            found.append(int(text))
        else:
            raise wrong(right)
    if not found:
        raise wrong(right)
    return tuple(dict.fromkeys(found))


def _codes(value: object) -> object:
    """Codes may be numbers in YAML: `code: 1113`."""
    many = value if isinstance(value, list | tuple) else (value,)
    return tuple(str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in many)


def _words(value: object) -> tuple[str, ...]:
    many = value if isinstance(value, list | tuple) else (value,)
    if not many:
        raise wrong("should be a phrase of the error's message, or a list of them")
    for phrase in many:
        if sum(letter.isalnum() for letter in text_of(phrase).replace("{model}", "model")) < 3:
            raise wrong(f"{phrase!r} would match nearly every message; give a phrase of at least three letters")
    return tuple(" ".join(str(phrase).split()) for phrase in many)


def _meaning(value: object) -> FailureKind:
    if not isinstance(value, str) or value not in MEANINGS:
        near = nearest(value, MEANINGS) if isinstance(value, str) else ""
        raise wrong(f"should be one of {', '.join(MEANINGS)}{near}")
    return MEANINGS[value]


def _scope(value: object) -> FailureScope:
    if not isinstance(value, str) or value not in SCOPES:
        near = nearest(value, SCOPES) if isinstance(value, str) else ""
        raise wrong(f"should be one of {', '.join(SCOPES)}{near}")
    return SCOPES[value]


def _wait(value: object) -> Wait:
    right = (
        "should be seconds, a duration like 90s or 6h, or `until midnight` or `until month`, "
        "with a time zone where it isn't UTC: until midnight America/Los_Angeles"
    )
    if isinstance(value, dict) and set(value) <= {"until", "zone"} and isinstance(value.get("until"), str):
        value = f"until {value['until']} {value.get('zone') or ''}"
    text = str(value).strip() if isinstance(value, int | float | str) or hasattr(value, "is_finite") else ""
    if until := _UNTIL.fullmatch(text):
        zone = until[2] or "UTC"
        if not _is_zone(zone):
            raise wrong(f"{zone!r} is no time zone; should be like America/Los_Angeles")
        return Wait(until=until[1].lower(), zone=zone)
    found = None if isinstance(value, bool) else _WAIT.fullmatch(text)
    if not text or found is None:
        raise wrong(right)
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    if not 0 < total <= _MOST_SECONDS:
        raise wrong(f"{right}; at most 40 days")
    return Wait(seconds=total)


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _dumped(wait: Any) -> Any:
    return wait if not isinstance(wait, Wait) else f"{wait.until or wait.seconds} {wait.zone}"


Codes = Annotated[Names, BeforeValidator(_codes)]
Statuses = Annotated[tuple[int, ...], PlainValidator(_statuses), PlainSerializer(list)]
Words = Annotated[tuple[str, ...], PlainValidator(_words), PlainSerializer(list)]
Meaning = Annotated[FailureKind, PlainValidator(_meaning), PlainSerializer(str)]
ScopeName = Annotated[FailureScope, PlainValidator(_scope), PlainSerializer(str)]
WaitTime = Annotated[Wait, PlainValidator(_wait), PlainSerializer(_dumped)]


class SignalConfig(Node):
    """One way in which this provider refuses a call, and its meaning.

    At least one of `status`, `code`, `type` and `words` is given; a reply must match each that is given. `wait` replaces the wait
    that the reply states.
    """

    status: Statuses = ()
    code: Codes = ()
    type: Codes = ()
    words: Words = ()
    meaning: Meaning
    scope: ScopeName | None = None
    wait: WaitTime | None = None

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        if not (self.status or self.code or self.type or self.words):
            raise wrong("has no condition; give at least one of status, code, type and words")
        if self.wait is not None and self.meaning not in (
            FailureKind.RATE_LIMIT,
            FailureKind.QUOTA,
            FailureKind.SERVER,
        ):
            raise wrong("has a wait, which is for the meanings rate_limit, quota and server; leave it out")
        return self

    @property
    def signal(self) -> Signal:
        """The row as it is compared."""
        return Signal(
            name="signals",
            meaning=self.meaning,
            status=self.status,
            code=self.code,
            type=self.type,
            words=self.words,
            scope=self.scope,
            wait=self.wait,
            source="configuration",
        )
