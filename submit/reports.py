"""The cost report: what was spent by what one asks for, as a table, CSV or JSON.

It reads the ledger through `models.store.ledger`, adds nothing up across currencies, and says loudly what has no price.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.errors import UsageError
from models.money import DEFAULT_CURRENCY, decimal_amount, format_money
from models.store.ledger import DIMENSIONS, Period, Spent
from models.wording import counted
from submit.metadata_costs import PREFIX

DEFAULT_BY = ("provider", "model")
_SUMMED = tuple(name for name in Spent.__dataclass_fields__ if name not in ("group", "currency"))


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of the ledger by the dimensions `by`; `totals` has one row a currency ("" for calls without a known cost). `remarks` are
    sentences on what was asked for."""

    by: tuple[str, ...]
    rows: tuple[Spent, ...]
    totals: tuple[Spent, ...]
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know beside the sums: unpriced, maybe billed, billed for nothing, under way."""
        found = []
        if number := sum(row.unpriced_calls for row in self.totals):
            tokens = sum(row.unpriced_tokens for row in self.totals)
            found.append(
                f"UNPRICED: {counted(number, 'call')} used {counted(tokens, 'token')} for which no price is configured; "
                f"{'it is' if number == 1 else 'they are'} in no cost above. Add pricing to {'its' if number == 1 else 'their'} "
                "keys or models; `--by price` names what else was billed and needs a fee"
            )
        if number := sum(row.untold_calls for row in self.totals):
            found.append(
                f"USAGE NOT TOLD: the provider didn't say how many tokens {counted(number, 'call')} used; "
                f"{'it is' if number == 1 else 'they are'} in no sum of tokens or cost above, and probably billed"
            )
        if number := sum(row.reported_calls for row in self.totals):
            says = format_money(sum(row.reported_nanos for row in self.totals), DEFAULT_CURRENCY)
            mine = format_money(sum(row.reported_counted_nanos for row in self.totals), DEFAULT_CURRENCY)
            found.append(
                f"REPORTED: the providers say that {counted(number, 'call')} cost {says}; "
                f"{mine} {'is' if number == 1 else 'are'} counted above for {'it' if number == 1 else 'them'}"
            )
        if number := sum(row.unknown_calls for row in self.totals):
            booked = sum(row.unknown_booked_tokens for row in self.totals)
            known = _amounts([(row.currency, row.unknown_nanos) for row in self.totals])
            found.append(
                f"MAYBE BILLED: {counted(number, 'call')} ended without a whole reply (timeouts, cut connections, crashes; "
                f"{counted(booked, 'token')} booked{f', {known} known' if known else ''}); "
                f"{'it is' if number == 1 else 'they are'} in no cost above"
            )
        if number := sum(row.failed_billed_calls for row in self.totals):
            money = _amounts([(row.currency, row.failed_nanos) for row in self.totals])
            found.append(f"{money} of the cost was billed for {counted(number, 'call')} that gave no usable answer")
        if number := sum(row.open_calls for row in self.totals):
            found.append(f"{counted(number, 'call')} {'is' if number == 1 else 'are'} under way")
        return (*found, *self.remarks)


def dimensions(text: str) -> tuple[str, ...]:
    """The dimensions in "provider,model,metadata.customer". Raises UsageError."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in DIMENSIONS and not name.startswith(PREFIX)]
    if unknown or not names or any(not part for name in names for part in name.split(".")):
        raise UsageError(
            f"--by {text!r}: it takes {', '.join(DIMENSIONS)} and fields of the lines' metadata, as metadata.FIELD, with commas "
            "between"
        )
    return names


def period_between(since: str | None, until: str | None) -> Period:
    """Returns the period from `since` on and before `until`, dates or ISO times, UTC where they name no zone. Raises UsageError."""
    period = Period(_moment("since", since), _moment("until", until))
    if period.since is not None and period.until is not None and period.until <= period.since:
        raise UsageError(f"until {until} is not after since {since}: `until` itself is not part of the period")
    return period


def _moment(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{name} {text[:40]!r} is no time: write a date such as 2026-01-31, or a time such as 2026-01-31T12:00Z"
        ) from None


def report(by: Sequence[str], spent: Sequence[Spent], remarks: Sequence[str] = ()) -> Report:
    """Puts the ledger's sums together: a group's calls without a known cost join its currency if it has just one."""
    rows: list[Spent] = []
    for group in dict.fromkeys(row.group for row in spent):
        rows += _joined([row for row in spent if row.group == group])
    by_currency: dict[str, Spent] = {}
    for row in spent:
        whole = replace(row, group=())
        by_currency[row.currency] = _added(by_currency[row.currency], whole) if row.currency in by_currency else whole
    totals = tuple(_joined([by_currency[key] for key in sorted(by_currency)]))
    return Report(tuple(by), tuple(rows), totals, tuple(remarks))


def as_json(found: Report) -> str:
    """{"by": […], "rows": […], "totals": […], "notes": […]}; amounts are decimal texts, null where nothing is priced."""
    rows = [{**dict(zip(found.by, row.group, strict=True)), **_fields(row)} for row in found.rows]
    return json.dumps(
        {
            "by": list(found.by),
            "rows": rows,
            "totals": [_fields(row) for row in found.totals],
            "notes": list(found.notes),
        },
        indent=2,
        ensure_ascii=False,
    )


def as_csv(found: Report) -> str:
    """One line a row, with the fields of the JSON rows as columns; without totals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(_fields(Spent((), "", *[0] * len(_SUMMED))))
    writer.writerow([*found.by, *names])
    for row in found.rows:
        fields = _fields(row)
        writer.writerow(
            [*map(_unformulated, row.group), *("" if fields[name] is None else fields[name] for name in names)]
        )
    return text.getvalue()


def as_table(found: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows for people, totals last; columns in which nothing happened are left out."""
    optional = {
        "of it failed": any(row.failed_nanos for row in found.rows),
        "maybe billed": any(row.unknown_calls for row in found.rows),
        "unpriced": any(row.unpriced_calls for row in found.rows),
        "usage not told": any(row.untold_calls for row in found.rows),
        "reported": any(row.reported_calls for row in found.rows),
    }
    shown = [name for name, wanted in optional.items() if wanted]
    columns = (*found.by, "calls", "succeeded", "tokens in", "cached", "tokens out", "cost", *shown)
    rows = [(*row.group, *_cells(row, shown)) for row in found.rows]
    if len(found.rows) > 1:
        blank = ("",) * max(0, len(found.by) - 1)
        rows += [("all", *blank, *_cells(row, shown)) for row in found.totals]
    return columns, rows


def as_text(found: Report) -> str:
    """Returns the table and the notes as text, columns aligned; without rows the remarks, else that no calls have been made yet."""
    if not found.rows:
        return "\n".join(found.remarks) or "no calls have been made yet"
    columns, rows = as_table(found)
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
    names = len(found.by)
    lines = [
        "  ".join(
            cell.ljust(width) if index < names else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (columns, *rows)
    ]
    return "\n".join([*lines, *found.notes])


def _cells(row: Spent, shown: Sequence[str]) -> tuple[str, ...]:
    special = {
        "of it failed": format_money(row.failed_nanos, row.currency) if row.failed_nanos else "",
        "maybe billed": counted(row.unknown_calls, "call") if row.unknown_calls else "",
        "unpriced": counted(row.unpriced_calls, "CALL", "CALLS") if row.unpriced_calls else "",
        "usage not told": counted(row.untold_calls, "CALL", "CALLS") if row.untold_calls else "",
        "reported": format_money(row.reported_nanos, DEFAULT_CURRENCY) if row.reported_calls else "",
    }
    return (
        f"{row.calls:,}",
        f"{row.succeeded:,}",
        f"{row.input_tokens:,}",
        f"{row.cached_tokens:,}",
        f"{row.output_tokens:,}",
        format_money(row.cost_nanos, row.currency) if row.currency else "-",
        *(special[name] for name in shown),
    )


def _fields(row: Spent) -> dict[str, Any]:
    priced = bool(row.currency)
    return {
        "currency": row.currency or None,
        "cost": _amount(row.cost_nanos) if priced else None,
        "failed_but_billed_cost": _amount(row.failed_nanos) if priced else None,
        "calls": row.calls,
        "succeeded": row.succeeded,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cached_tokens": row.cached_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "failed_but_billed_calls": row.failed_billed_calls,
        "unknown_calls": row.unknown_calls,
        "unknown_booked_tokens": row.unknown_booked_tokens,
        "unknown_known_cost": _amount(row.unknown_nanos) if priced else None,
        "open_calls": row.open_calls,
        "unpriced_calls": row.unpriced_calls,
        "unpriced_tokens": row.unpriced_tokens,
        "untold_calls": row.untold_calls,
        "reported_calls": row.reported_calls,
        "reported_cost_usd": _amount(row.reported_nanos) if row.reported_calls else None,
        "reported_calls_cost_usd": _amount(row.reported_counted_nanos) if row.reported_calls else None,
    }


def _amount(nanos: int) -> str:
    return format(decimal_amount(nanos), "f")


def _amounts(pairs: Sequence[tuple[str, int]]) -> str:
    return " + ".join(format_money(nanos, currency) for currency, nanos in pairs if currency and nanos)


def _joined(rows: list[Spent]) -> list[Spent]:
    """Rows of one group: those without a known cost join the others when there is exactly one currency."""
    priced = [row for row in rows if row.currency]
    if len(priced) != 1:
        return rows
    whole = priced[0]
    for row in rows:
        if not row.currency:
            whole = _added(whole, row)
    return [whole]


def _added(one: Spent, other: Spent) -> Spent:
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in _SUMMED})


def _unformulated(text: str) -> str:
    """A name that a spreadsheet would run as a formula, disarmed."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
