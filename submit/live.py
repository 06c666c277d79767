"""The live view of a batch: a table that redraws itself on a terminal, now and then a plain line elsewhere.

It reads nothing; it draws the snapshots it is given.
"""

from __future__ import annotations

import re
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.money import format_money
from models.states import BatchStatus
from models.wording import counted
from submit.progress import Part, Snapshot

LINE_SECONDS = 5.0
_OF_A_KEY = re.compile(r"(no usable key: )?[^\s/]+/[^\s/]+: ")


class LiveView:
    """Shows snapshots as they come: `with LiveView() as view: watch(…, on_tick=view.show)`. Writes to stderr by default."""

    def __init__(self, console: Console | None = None, *, line_seconds: float = LINE_SECONDS) -> None:
        self._console = console or Console(stderr=True)
        self._line_seconds = line_seconds
        self._live: Live | None = None
        self._last_line = ""
        self._last_status = ""
        self._last_time = float("-inf")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, seen: Snapshot) -> None:
        """Redraws the table, or writes a line when one is due or the status has changed."""
        if self._live is not None:
            self._live.update(drawn(seen, self._console.width), refresh=True)
            return
        now = time.monotonic()
        text = line(seen)
        due = now - self._last_time >= self._line_seconds or seen.status != self._last_status or seen.finished
        if due and text != self._last_line:
            self._last_line, self._last_status, self._last_time = text, seen.status, now
            print(text, file=self._console.file, flush=True)  # noqa: T201 - rich would break the line at the width


def line(seen: Snapshot, width: int | None = None) -> str:
    """The snapshot in one line; `width` is the terminal's, if it is for one."""
    parts = [f"batch {seen.batch_id} {seen.status}: {seen.ended:,}/{seen.total:,} done"]
    if seen.failed:
        parts.append(f"{seen.failed:,} failed")
    if seen.cancelled:
        parts.append(f"{seen.cancelled:,} cancelled")
    if not seen.finished and seen.status != BatchStatus.FINALIZING:
        parts += [f"{seen.running:,} in flight", f"{_rate(seen.rate)}", f"ETA {duration(seen.eta_seconds)}"]
    parts.append(money(seen.costs, seen.unpriced_tokens))
    return ", ".join([*parts, *(fitted(remark, width) for remark in seen.remarks)])


def fitted(remark: str, width: int | None) -> str:
    """A remark in which what a provider said of a key is cut to `width` characters; when it is tried again stays. None: whole."""
    if width is None:
        return remark
    parts = []
    for part in remark.split("; "):
        if len(part) > width and _OF_A_KEY.match(part):
            end = part[part.rindex(" (tried again") :] if " (tried again" in part else ""
            part = part[: max(0, width - len(end) - 1)] + "…" + end
        parts.append(part)
    return "; ".join(parts)


def drawn(seen: Snapshot, width: int) -> Group:
    """The snapshot as a table, a row a provider, for a terminal of `width` characters."""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"batch {seen.batch_id}", style="bold"),
        Text(seen.name),
        Text(seen.status, style="bold red" if seen.stuck else "bold green" if seen.finished else "bold"),
        ProgressBar(total=max(1, seen.total), completed=seen.ended, width=30),
        Text(f"{seen.ended:,}/{seen.total:,}"),
        Text("" if seen.finished else f"{_rate(seen.rate)}  ETA {duration(seen.eta_seconds)}"),
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in ("provider", "done", "failed", "calls", "tokens in", "tokens out", "cost so far"):
        table.add_column(name, justify="left" if name == "provider" else "right", style=None, header_style="dim")
    for part in seen.providers:
        table.add_row(*_cells(part))
    table.add_row(
        Text("all", style="bold"),
        Text(f"{seen.succeeded:,}", style="bold"),
        Text(f"{seen.failed:,}", style="bold red" if seen.failed else "bold"),
        Text(f"{sum(part.calls for part in seen.providers):,}", style="bold"),
        Text(f"{sum(part.input_tokens for part in seen.providers):,}", style="bold"),
        Text(f"{sum(part.output_tokens for part in seen.providers):,}", style="bold"),
        Text(money(seen.costs, seen.unpriced_tokens), style="bold"),
    )
    foot = [f"{seen.running:,} in flight, {seen.queued:,} waiting" if not seen.finished else ""]
    if seen.cancelled:
        foot.append(f"{seen.cancelled:,} cancelled")
    rows: list[RenderableType] = [head, table, Text(", ".join(filter(None, foot)), style="dim")]
    rows += [Text(fitted(remark, width), style="red") for remark in seen.remarks]
    return Group(*rows)


def money(costs: tuple[tuple[str, int], ...], unpriced_tokens: int) -> str:
    """Amounts by currency side by side, and what has no price said as such."""
    parts = [format_money(nanos, currency) for currency, nanos in costs]
    if unpriced_tokens:
        parts.append(f"{counted(unpriced_tokens, 'token')} UNPRICED")
    return " + ".join(parts) or "no cost yet"


def duration(seconds: float | None) -> str:
    """Seconds as people say it: "42 s", "3 min 5 s", "2 h 10 min"; "?" for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _rate(rate: float | None) -> str:
    if rate is None:
        return "?/s"
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _cells(part: Part) -> list[Text]:
    return [
        Text(part.provider),
        Text(f"{part.succeeded:,}"),
        Text("?" if part.failed is None else f"{part.failed:,}", style="red" if part.failed else ""),
        Text(f"{part.calls:,}"),
        Text(f"{part.input_tokens:,}"),
        Text(f"{part.output_tokens:,}"),
        Text(money(part.costs, part.unpriced_tokens) if part.costs or part.unpriced_tokens else "-"),
    ]
