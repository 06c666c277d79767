"""Costs by what users wrote into their lines' `metadata`: the ledger's sums, joined with the lines page by page.

It holds one page of lines' values at a time, never their bodies together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from models.database import Database
from models.store import ledger, outcomes
from models.store.ledger import ALWAYS, JOB, Period, Spent

PREFIX = "metadata."
DELETED = "(deleted)"
"""Stands for the value of a line that isn't there any more."""

METADATA = "metadata"
"""The field of a line, and of a vendor's body, that holds it where none stands beside."""

_PAGE = 500
_SHOWN_FIELDS = 20
_NULL = msgspec.Raw(b"null")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SUMMED = tuple(name for name in Spent.__dataclass_fields__ if name not in ("group", "currency"))


def spent_by(
    database: Database, by: Sequence[str], *, batch_id: int | None = None, period: Period = ALWAYS
) -> tuple[list[Spent], list[str]]:
    """Returns `ledger.spent` for dimensions of which some are `metadata.FIELD` (dots lead deeper), "" where a line has none; and a
    sentence for each such field that no line has."""
    plain = [name for name in by if not name.startswith(PREFIX)]
    paths = [name.removeprefix(PREFIX).split(".") for name in by if name.startswith(PREFIX)]
    sums: dict[tuple[tuple[str, ...], str], Spent] = {}
    fields: dict[str, None] = {}
    missing = {".".join(path) for path in paths}
    after = -1
    while True:
        with database.read() as connection:
            ids = ledger.jobs_with_calls(connection, after, batch_id=batch_id, period=period, most=_PAGE)
            if not ids:
                break
            after = ids[-1]
            values = {}
            for job, body, beside in outcomes.metadata(connection, ids):
                values[job] = [(beside and _value(beside, path)) or _value(body, [METADATA, *path]) for path in paths]
                missing -= {".".join(path) for path, value in zip(paths, values[job], strict=True) if value}
                if missing and len(fields) < _SHOWN_FIELDS:
                    fields |= dict.fromkeys([*_names(beside or b""), *_names(body, METADATA)])
            page = ledger.spent(connection, [JOB, *plain], batch_id=batch_id, job_ids=ids, period=period)
        for row in page:
            own = iter(row.group[1:])
            told = iter(values.get(int(row.group[0]), [DELETED] * len(paths)))
            group = tuple(next(told) if name.startswith(PREFIX) else next(own) for name in by)
            found = sums.get((group, row.currency))
            sums[group, row.currency] = replace(row, group=group) if found is None else _added(found, row)
    known = f"; the lines have {', '.join(list(fields)[:_SHOWN_FIELDS])}" if fields else ""
    notes = [f"no line has metadata.{name}{known}" for name in sorted(missing)] if sums else []
    return [sums[key] for key in sorted(sums)], notes


def _added(one: Spent, other: Spent) -> Spent:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in _SUMMED})


def _names(packed: bytes, *path: str) -> list[str]:
    """Returns the names of an object's fields; none where it is no object."""
    value: Any = msgspec.Raw(packed)
    try:
        for name in path:
            value = _members.decode(value).get(name, _NULL)
        return list(_members.decode(value))
    except msgspec.MsgspecError:
        return []


def _value(told: bytes, path: Sequence[str]) -> str:
    """A text as it is, anything else as JSON."""
    value: Any = msgspec.Raw(told)
    try:
        for name in path:
            value = _members.decode(value).get(name, _NULL)
        value = msgspec.json.decode(value)
    except msgspec.MsgspecError:
        return ""
    if value is None or isinstance(value, str):
        return value or ""
    return msgspec.json.encode(value).decode()
