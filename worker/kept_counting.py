"""How servers count tokens, in SQL: what one process has found out serves the others, and the next run.

The finding out is `worker.token_counting`'s; this only carries its rules.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from sqlalchemy.engine import Connection

from models.config import Config
from models.learning import fingerprints
from models.pools import pool_name
from models.store import learned as learned_store
from models.store.learned import Learned, Reset
from worker.recorder import Recorder
from worker.token_counting import Rule, TokenCounting

log = logging.getLogger("truckllm.counting")

USED_SECONDS = 12 * 3600.0
"""How old a stored rule may get that is used, before it is stored anew to show that."""


class KeptCounting:
    """The rules of a process's providers, by their names. A rule stands in SQL for each pool of keys that learn."""

    def __init__(self, config: Config, countings: Mapping[str, TokenCounting], recorder: Recorder) -> None:
        self._marks = fingerprints(config.providers)
        self._countings = countings
        self._recorder = recorder
        self._followed: dict[tuple[str, str], float] = {}  # resets, and when they were made
        self._pools: dict[str, list[str]] = {}
        for name in countings:
            provider = config.provider(name)
            named = {pool_name(provider, key) for key in provider.keys if provider.learns(key)}
            self._pools[name] = sorted(pool for pool in named if self._marks.get(pool))

    async def exchange(self) -> None:
        """Follows resets, stores what was found here, and takes over what was found elsewhere. Raises StorageError."""
        found = {name: counting.unsaved() for name, counting in self._countings.items()}
        pools = {pool for of_provider in self._pools.values() for pool in of_provider}
        if not pools:
            return

        def work(connection: Connection) -> tuple[list[Reset], list[Learned]]:
            now = self._recorder.now()
            resets, stored = learned_store.resets(connection), learned_store.countings(connection, pools, now)
            self._forget(resets)
            rows = self._to_store(found, stored, resets, now)
            if rows:
                learned_store.keep_countings(connection, rows, now)
            return resets, stored

        resets, stored = await self._recorder.call(work)
        self._followed = {(one.pool, one.model): one.at for one in resets}
        for name, rules in found.items():
            self._countings[name].saved(rules)
        for name, of_provider in self._pools.items():
            for one in stored:
                reset = any(reset.covers(one.pool, one.model) for reset in resets)
                if one.pool in of_provider and one.configured == self._marks[one.pool] and not reset:
                    self._countings[name].adopt(one.model, _rule(one.counting))

    def _forget(self, resets: list[Reset]) -> None:
        for reset in resets:
            if self._followed.get((reset.pool, reset.model)) == reset.at:
                continue
            for name, of_provider in self._pools.items():
                if reset.pool == "" or reset.pool in of_provider:
                    self._countings[name].forget(reset.model or None)

    def _to_store(
        self, found: Mapping[str, Mapping[str, Rule]], stored: list[Learned], resets: list[Reset], now: float
    ) -> list[Learned]:
        """The rows that differ from what is stored, and those that are used and old."""
        known = {(one.pool, one.model): one for one in stored}
        rows: dict[tuple[str, str], Learned] = {}
        for name, of_provider in self._pools.items():
            used = {one.model for one in stored if one.updated_at < now - USED_SECONDS}
            old = {model: rule for model in used if (rule := self._countings[name].rule(model)) != Rule()}
            for model, rule in {**old, **found[name]}.items():
                counting = None if rule == Rule() else json.dumps(rule.to_dict())
                for pool in of_provider:
                    before = known.get((pool, model))
                    if before is None and counting is None:
                        continue
                    mark = self._marks[pool] or ""
                    same = before is not None and (before.counting, before.configured) == (counting, mark)
                    if (not same or model in old) and not any(reset.covers(pool, model) for reset in resets):
                        rows[pool, model] = Learned(pool, model, counting=counting, configured=mark, updated_at=now)
        return list(rows.values())


def _rule(text: str | None) -> Rule | None:
    try:
        return Rule.from_dict(json.loads(text or "null"))
    except ValueError:
        return None
