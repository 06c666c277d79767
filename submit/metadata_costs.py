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
from models.store.ledger import JOB, Spent

PREFIX = "metadata."
DELETED = "(deleted)"
"""Stands for the value of a line that isn't there any more."""

METADATA = "metadata"
"""The field of a line, and of a vendor's body, that holds it where none stands beside."""

_PAGE = 500
_NULL = msgspec.Raw(b"null")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SUMMED = tuple(name for name in Spent.__dataclass_fields__ if name not in ("group", "currency"))


def spent_by(database: Database, by: Sequence[str], *, batch_id: int | None = None) -> list[Spent]:
    """`ledger.spent` for dimensions of which some are `metadata.FIELD` (dots lead deeper). "" where a line has none."""
    plain = [name for name in by if not name.startswith(PREFIX)]
    paths = [name.removeprefix(PREFIX).split(".") for name in by if name.startswith(PREFIX)]
    sums: dict[tuple[tuple[str, ...], str], Spent] = {}
    after = -1
    while True:
        with database.read() as connection:
            ids = ledger.jobs_with_calls(connection, after, batch_id=batch_id, most=_PAGE)
            if not ids:
                break
            after = ids[-1]
            values = {
                job: [(beside and _value(beside, path)) or _value(body, [METADATA, *path]) for path in paths]
                for job, body, beside in outcomes.metadata(connection, ids)
            }
            page = ledger.spent(connection, [JOB, *plain], batch_id=batch_id, job_ids=ids)
        for row in page:
            own = iter(row.group[1:])
            told = iter(values.get(int(row.group[0]), [DELETED] * len(paths)))
            group = tuple(next(told) if name.startswith(PREFIX) else next(own) for name in by)
            found = sums.get((group, row.currency))
            sums[group, row.currency] = replace(row, group=group) if found is None else _added(found, row)
    return [sums[key] for key in sorted(sums)]


def _added(one: Spent, other: Spent) -> Spent:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in _SUMMED})


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
