"""The live view of a batch: a table that redraws itself on a terminal, now and then a plain line elsewhere.

It reads nothing; it draws the snapshots it is given.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.wording import counted, duration
from submit.lines import failures, fitted, line, money, rate
from submit.progress import Part, Snapshot

LINE_SECONDS = 5.0
_ANY_WIDTH = 10_000


class LiveView:
    """Shows snapshots as they come: `with LiveView() as view: watch(…, on_tick=view.show)`. Writes to stderr by default."""

    def __init__(self, console: Console | None = None, *, line_seconds: float = LINE_SECONDS) -> None:
        self._console = console or Console(stderr=True)
        self._line_seconds = line_seconds
        self._live: Live | None = None
        self._last_line = ""
        self._last_status = ""
        self._waited = False
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
            self._live.update(self._fitting(drawn(seen, self._console.width), seen), refresh=True)
            return
        now = time.monotonic()
        text = line(seen)
        news = seen.status != self._last_status or (seen.waiting is not None and not self._waited)
        due = now - self._last_time >= self._line_seconds or news or seen.finished
        if due and text != self._last_line:
            self._last_line, self._last_status, self._last_time = text, seen.status, now
            self._waited = self._waited or seen.waiting is not None
            print(text, file=self._console.file, flush=True)  # noqa: T201 - rich would break the line at the width

    def _fitting(self, whole: Group, seen: Snapshot) -> RenderableType:
        """The table, or where the terminal is too narrow for its figures a line that wraps between them."""
        unbound = self._console.options.update(max_width=_ANY_WIDTH)
        narrowest = max(self._console.measure(part, options=unbound).minimum for part in whole.renderables[:2])
        return (
            whole
            if narrowest <= self._console.width
            else Text(line(seen, self._console.width), no_wrap=False, overflow="fold")
        )


def drawn(seen: Snapshot, width: int) -> Group:
    """The snapshot as a table, a row a provider, for a terminal of `width` characters."""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"batch {seen.batch_id}", style="bold"),
        Text(seen.name),
        Text(seen.status, style="bold red" if seen.stuck else "bold green" if seen.finished else "bold"),
        ProgressBar(total=max(1, seen.total), completed=seen.ended, width=30 if width >= 80 else 10),
        Text(f"{seen.ended:,}/{seen.total:,}"),
        Text("" if seen.finished else f"{rate(seen.rate)}  ETA {duration(seen.eta_seconds)}"),
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
    if seen.empty:
        foot.append(counted(seen.empty, "empty answer"))
    if seen.cancelled:
        foot.append(f"{seen.cancelled:,} cancelled")
    rows: list[RenderableType] = [head, table, Text(", ".join(filter(None, foot)), style="dim")]
    rows += [Text(text, style="red", no_wrap=True, overflow="ellipsis") for text in failures(seen, width, most=3)]
    rows += [Text(fitted(remark, width), style="red", no_wrap=False, overflow="fold") for remark in seen.remarks]
    return Group(*rows)


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
