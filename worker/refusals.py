"""Refusals that name a key or a model, until another row or the free list of models confirms them.

One row's refusal concerns that row: it leaves the key or the model out for this row alone. The memory is this process's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from worker.limits.limiter import LimitedKey

REMEMBER_SECONDS = 600.0
"""How long a refusal, and an answer, of a key or a model counts."""
MOST = 4096
"""Of so many rows and of so many refusals something is kept in mind: whoever submits rows may name what models they like."""
ALIKE = 2
ANY_KEY = ""
ANY_MODEL = ""


class Refusals:
    """Which row was refused with which key and model, and which key and model answered. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspected: dict[tuple[str, str], tuple[int, float]] = {}
        self._answered: dict[tuple[str, str], float] = {}
        self._left_out: dict[int, set[tuple[str, str]]] = {}

    def answered(self, key: str, model: str) -> None:
        """Notes an answer: what was suspected of this key and model isn't so."""
        for what in ((key, model), (ANY_KEY, model), (key, ANY_MODEL)):
            self._suspected.pop(what, None)
            _put(self._answered, what, self._clock())

    def confirms(self, key: str, model: str, job_id: int, before: int = 0) -> bool:
        """Notes a row's refusal. Returns whether it confirms one of another row: within 10 minutes, and without an answer in them. `before`:
        how often this row was refused alike, where that isn't due to what it asks; the third refusal confirms the first."""
        what, now = (key, model), self._clock()
        if now - self._answered.get(what, float("-inf")) < REMEMBER_SECONDS:
            return False
        if before >= ALIKE:
            return True
        other, since = self._suspected.get(what, (job_id, now))
        if other != job_id and now - since < REMEMBER_SECONDS:
            return True
        if other == job_id or now - since >= REMEMBER_SECONDS:
            _put(self._suspected, what, (job_id, now))
        return False

    def leave_out(self, job_id: int, key: str, model: str) -> None:
        """Leaves a key (`ANY_KEY`: all of them) out for this row's calls of a model."""
        found = self._left_out.get(job_id, set())
        _put(self._left_out, job_id, {*found, (key, model)})

    def forget(self, job_id: int) -> None:
        """Lets a row, whose route begins again, be sent as if it had never been refused."""
        self._left_out.pop(job_id, None)

    def usable(self, job_id: int, model: str, keys: Sequence[LimitedKey]) -> tuple[LimitedKey, ...]:
        """Returns those of the keys that haven't refused this row's calls of the model."""
        found = self._left_out.get(job_id)
        if not found:
            return tuple(keys)
        return () if (ANY_KEY, model) in found else tuple(key for key in keys if (key.name, model) not in found)

    def has_refused(self, job_id: int) -> bool:
        """Returns whether any key or model refused this row."""
        return job_id in self._left_out

    def refused(self, job_id: int, model: str, keys: Sequence[str]) -> bool:
        """Returns whether all of the keys refused this row's calls of the model."""
        found = self._left_out.get(job_id, set())
        return (ANY_KEY, model) in found or all((key, model) in found for key in keys)


def _put(memory: dict[Any, Any], what: Any, value: Any) -> None:
    memory.pop(what, None)
    memory[what] = value
    if len(memory) > MOST:
        del memory[next(iter(memory))]
