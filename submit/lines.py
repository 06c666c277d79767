"""How a batch is told in a line: what is done, how fast, what it costs, what is in its way.

It draws no tables; `submit.live` does.
"""

from __future__ import annotations

import re

from models.money import format_money
from models.states import BatchStatus
from models.wording import counted, duration
from submit.progress import Snapshot

_OF_A_COOLDOWN = re.compile(r".*: (?:cooling down for|no call starts until) .*? UTC")
_OF_A_KEY = re.compile(r"(no usable key: )?[^\s/]+/[^\s/]+: ")


def line(seen: Snapshot, width: int | None = None) -> str:
    """The snapshot in one line; `width` is the terminal's, if it is for one."""
    parts = [f"batch {seen.batch_id} {seen.status}: {seen.ended:,}/{seen.total:,} done"]
    if seen.failed:
        parts.append(f"{seen.failed:,} failed")
    if seen.empty:
        parts.append(counted(seen.empty, "empty answer"))
    if seen.cancelled:
        parts.append(f"{seen.cancelled:,} cancelled")
    if not seen.finished and seen.status != BatchStatus.FINALIZING:
        parts.append(f"{seen.running:,} in flight")
        if seen.status != BatchStatus.CANCELLED:
            parts += [rate(seen.rate), f"ETA {duration(seen.eta_seconds)}"]
    parts.append(money(seen.costs, seen.unpriced_tokens))
    return ", ".join([*parts, *(fitted(remark, width) for remark in seen.remarks)])


def failures(seen: Snapshot, width: int | None = None, most: int = 10) -> list[str]:
    """Returns a line for each of the most frequent error codes: its number, the code, and an example with its job's id.

    `width` cuts each line to a terminal's; None: whole.
    """
    found = []
    for group in seen.failures[:most]:
        message = " ".join(group.message.split())
        text = f"{group.number:,} × {group.code or 'no code'}, such as {group.custom_id}: {message}"
        found.append(text if width is None or len(text) <= width else text[: max(0, width - 1)] + "…")
    return found


def fitted(remark: str, width: int | None) -> str:
    """A remark in which what a provider said of a key is cut to `width` characters; when it is tried again, or until when it
    cools down, stays. None: whole."""
    if width is None:
        return remark
    parts = []
    for part in remark.split("; "):
        if len(part) > width and (cooldown := _OF_A_COOLDOWN.match(part)):
            part = part[: max(len(cooldown.group()), width - 1)] + "…"
        if len(part) > width and _OF_A_KEY.match(part):
            end = part[part.rindex(" (tried again") :] if " (tried again" in part else ""
            part = part[: max(0, width - len(end) - 1)] + "…" + end
        parts.append(part)
    return "; ".join(parts)


def money(costs: tuple[tuple[str, int], ...], unpriced_tokens: int) -> str:
    """Amounts by currency side by side, and what has no price said as such."""
    parts = [format_money(nanos, currency) for currency, nanos in costs]
    if unpriced_tokens:
        parts.append(f"{counted(unpriced_tokens, 'token')} UNPRICED")
    return " + ".join(parts) or "no cost yet"


def rate(jobs_a_second: float | None) -> str:
    """A rate as people read it; "?/s" for None."""
    if jobs_a_second is None:
        return "?/s"
    return f"{jobs_a_second:,.0f}/s" if jobs_a_second >= 10 else f"{jobs_a_second:.2g}/s"
