"""A provider's calls in flight in this process, by pool and model: how many there are, where each stood, and how long they take.

It decides nothing: the limiter does (`worker.limits`), by what is reported from here. Keys whose limits aren't learned are left out.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from models.request import Failure
from worker.limits.shapes import Flying, Grant, LimitKind, Refused
from worker.refusal_kinds import RefusalKinds, Sent

REMEMBERED = 64
"""Latencies, of the last answers."""
PAUSE_SECONDS = (0.25, 1.0, 2.0)
"""Between two steps of growth: at least, while nothing has been answered, at most."""
USUAL_SHARE, FEWEST, FORGOTTEN = 0.9, 16, 1.01
"""Of the last answers, at least so many, that took no longer than usual. The usual latency falls at once and rises by so much an answer: it is
that of the time before calls got slow."""
SLOW, SLOW_SECONDS, SLOW_SHARE = 1.2, 0.25, 0.15
LATE, LATE_SECONDS = 2.0, 0.5
"""Of the usual latency, and seconds beyond: a call that is out for longer is slow, or late. More slow ones than so many of all, and than
one, stop growth: latencies differ at a server that isn't slow."""

LONGEST_WINDOW = 65.0
"""Seconds of a limit's window: longer ones aren't limits a minute."""

_ABOUT: dict[str, LimitKind] = {
    "requests": "requests",
    "tokens": "tokens",
    "input_tokens": "tokens",
    "output_tokens": "tokens",
    "concurrent": "calls",
}


@dataclass(slots=True)
class _Call:
    """`sent` is there for calls of which something is learned; `left`: it was sent."""

    grant: Grant
    model: str
    others: int
    sent: Sent | None = None
    left: bool = False


class InFlight:
    """`clock` is monotonic. Where nothing is learned of a model, its calls are only counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[int, _Call] = {}
        self._granted: Counter[tuple[str, str]] = Counter()
        self._sent: Counter[tuple[str, str]] = Counter()
        self._placed: dict[tuple[str, str], bool] = {}  # what something is learned of: whether nothing is configured
        self._kinds = RefusalKinds(clock)
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._usual: float | None = None

    def granted(self, attempt_id: int, grant: Grant, model: str) -> None:
        """Takes in a call that was granted."""
        if not grant.key.learns:
            return
        what = grant.key.pool, model
        self._granted[what] += 1
        if grant.placed:
            self._placed[what] = grant.key.learns == 2
        others = max(0, grant.places[0].in_flight - self._granted[what])
        self._calls[attempt_id] = _Call(grant, model, others)

    def sent(self, attempt_id: int) -> None:
        """Takes in that a granted call leaves now."""
        if (call := self._calls.get(attempt_id)) is not None:
            call.left = True
            what = call.grant.key.pool, call.model
            if call.grant.placed:
                self._sent[what] += 1
                call.sent = self._kinds.sent(*what, call.others + self._sent[what])

    def over(self, attempt_id: int) -> None:
        """Takes in that a call has ended, in whatever way, or never left."""
        if (call := self._calls.pop(attempt_id, None)) is None:
            return
        what = call.grant.key.pool, call.model
        _less(self._granted, what)
        if what not in self._granted:
            self._placed.pop(what, None)
        if call.sent is not None:
            _less(self._sent, what)
            if not call.sent.over:
                call.sent.over = True
                self._latencies.append(self._clock() - call.sent.at)
                usual = self._most()
                if len(self._latencies) >= FEWEST:
                    self._usual = usual if self._usual is None else min(usual, self._usual * FORGOTTEN)

    def refused(self, attempt_id: int, failure: Failure) -> Refused | None:
        """Takes in a 429, and returns what the limiter learns from it; None where its limits aren't learned, or a day's limit is what it
        names, or where the call is larger than the limit."""
        call = self._calls.get(attempt_id)
        if call is None or not call.left:
            return None
        exceeded = failure.exceeded
        if exceeded is not None and (
            (exceeded.window or 0.0) > LONGEST_WINDOW or (exceeded.requested or 0) > (exceeded.limit or float("inf"))
        ):
            return None
        about: LimitKind = "" if exceeded is None else _ABOUT[exceeded.unit]
        what = call.grant.key.pool, call.model
        guessed = (
            call.sent is not None and self._kinds.refused(*what, call.sent) and not about and not failure.retry_after
        )
        of_pool = sum(count for (pool, _), count in self._granted.items() if pool == what[0])
        counts = self._granted[what], of_pool
        return Refused(about, call.grant.charge.tokens, call.grant.places, counts, guessed)

    def report(self) -> tuple[list[Flying], float | None]:
        """Returns the calls in flight, and the seconds that they are left as they are until more are tried; None while several take longer
        than calls did before."""
        if not self._placed:
            return [], PAUSE_SECONDS[1]
        if not self._latencies or not any(
            self._placed.values()
        ):  # only where nothing is configured calls are tried by their latency
            return [Flying(*what, self._granted[what]) for what in self._placed], PAUSE_SECONDS[1]
        usual, now = self._most() if self._usual is None else self._usual, self._clock()
        flying = [
            Flying(*what, self._granted[what], self._kinds.late(*what, LATE * usual + LATE_SECONDS))
            for what in self._placed
        ]
        limit = SLOW * usual + SLOW_SECONDS
        slow = sum(call.sent is not None and now - call.sent.at > limit for call in self._calls.values())
        if slow > max(1, SLOW_SHARE * len(self._calls)):
            return flying, None
        return flying, min(PAUSE_SECONDS[2], max(PAUSE_SECONDS[0], SLOW * max(self._latencies) + 0.1))

    def _most(self) -> float:
        """Returns the latency that most of the last answers had at most."""
        return sorted(self._latencies)[int(USUAL_SHARE * len(self._latencies))]


def _less(counts: Counter[tuple[str, str]], what: tuple[str, str]) -> None:
    counts[what] -= 1
    if counts[what] <= 0:
        del counts[what]
