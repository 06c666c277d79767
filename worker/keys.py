"""A provider's keys: which may be used for which model, in what buckets, and which are out of use and why.

Quarantines live in SQL and are enforced in Redis for all workers; this process's view is refreshed from SQL. What a key or a
provider says about one model is remembered here for ten minutes. It sends nothing but the free model list.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.engine import Connection, RowMapping

from models.config import Config, KeyConfig, ProviderConfig
from models.pools import pool_name
from models.request import Failure, FailureKind, FailureScope
from models.store import keys as key_store
from worker.limits.limiter import LimitedKey, Limiter
from worker.limits.shapes import LONGEST_SECONDS
from worker.pools import PoolLimits, limited_key, ruled
from worker.providers.base import Provider, ProviderRefused
from worker.recorder import Recorder
from worker.refusals import ANY_KEY, ANY_MODEL, MOST, REMEMBER_SECONDS, Refusals

log = logging.getLogger("truckllm.keys")

MOST_MODELS = MOST
QUOTA_SECONDS = 3600.0
"""How long a pool without money or quota rests when the provider doesn't tell when it comes back."""
BILLING_SECONDS = 40 * 86_400.0
"""An account's money comes back within a month; a later time counts as a day."""
ASK_SECONDS = 10.0
"""How long the free model list may take to answer for a key."""
GOOD_SECONDS = 30.0
"""For so long a key that was just accepted isn't asked about again, and its list of models is believed."""
EMPTY_AGAIN_SECONDS = (60.0, 300.0, 900.0, QUOTA_SECONDS)
"""How long a pool rests at least that is empty again, without an answer since: however short a time the provider names."""
REFUSED = "refused"
PROBE_SECONDS = (60.0, 300.0, 900.0)
"""A refused key is asked about again after 1, 5 and then every 15 minutes, by the free model list, never with a job."""


def _believed(seconds: float) -> float:
    """How long an account is left alone that comes back in so many seconds."""
    return seconds if seconds <= BILLING_SECONDS else LONGEST_SECONDS


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a key is out of use; `until` in the database's unix seconds, None: until a person acts."""

    reason: str
    until: float | None
    probes: int


class KeyRing:
    """The keys of one provider in one process."""

    def __init__(
        self,
        config: Config,
        provider: Provider,
        limiter: Limiter,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = provider.config
        self._config = config
        self._provider = provider
        self._limiter = limiter
        self._recorder = recorder
        self._clock = clock
        self._marks = {key.id: key_store.fingerprint(key.secret.reveal()) for key in self.settings.keys}
        self._out: dict[str, Quarantine] = {}
        self._models: dict[str, tuple[float, Failure]] = {}
        self._key_models: dict[tuple[str, str], tuple[float, Failure]] = {}
        self._limited: dict[str, tuple[LimitedKey, ...]] = {}
        self._ruled: dict[str, PoolLimits] = {}
        self._rules = ""
        self._confirming: dict[str, asyncio.Future[bool]] = {}
        self._good_until: dict[str, float] = {}
        self._refused_again: dict[str, int] = {}
        self._taken_out: dict[str, float] = {}
        self._empty: dict[str, int] = {}
        self._listing: dict[str, asyncio.Future[frozenset[str] | None]] = {}
        self._listed: dict[str, tuple[float, frozenset[str]]] = {}
        self.refusals = Refusals(clock)
        self._locked = {one.name: one for one in (limited_key(self.settings, key, "") for key in self.settings.keys)}
        self._strays: set[str] = set()

    # What may be used

    def usable_for(self, job_id: int, model: str) -> tuple[LimitedKey, ...]:
        """Returns the keys that this row's call of the model may go out on now, cheapest first."""
        return self.refusals.usable(job_id, model, self.usable(model))

    def usable(self, model: str) -> tuple[LimitedKey, ...]:
        """The keys that a call of this model may go out on now, cheapest first."""
        limited = self._limited.get(model)
        if limited is None:
            limited = self._build(model)
            if len(self._limited) >= MOST_MODELS:
                del self._limited[next(iter(self._limited))]
            self._limited[model] = limited
        if not self._out and not self._key_models and not self._confirming:
            return limited
        return tuple(
            key
            for key in limited
            if key.name not in self._out
            and key.name not in self._confirming
            and self._recall(self._key_models, (key.name, model)) is None
        )

    def serves(self, name: str, model: str) -> bool:
        """Whether a call of this model may go out on this key now."""
        return self.model_gone(model) is None and any(key.name == name for key in self.usable(model))

    def _build(self, model: str) -> tuple[LimitedKey, ...]:
        prices = {}
        for key in self.settings.keys:
            if pricing := self.settings.pricing(key, model):
                prices[key.id] = pricing.input_token_cost + pricing.output_token_cost
        order = sorted(set(prices.values()))
        limited = [
            limited_key(self.settings, key, model, order.index(prices[key.id]) if key.id in prices else len(order))
            for key in self.settings.keys
        ]
        limited = [ruled(one, model, self._ruled[one.pool]) if one.pool in self._ruled else one for one in limited]
        return tuple(sorted((replace(one, rules=self._rules) for one in limited), key=lambda one: one.rank))

    def rule(self, limits: Mapping[str, PoolLimits], mark: str = "") -> None:
        """Goes by these limits, by pool, instead of its own configuration's; by its own for all others. `mark` names the state of
        all workers' limits that these are."""
        mine = {pool: limits[pool] for pool in {one.pool for one in self._locked.values()} if pool in limits}
        if mine != self._ruled or mark != self._rules:
            self._ruled, self._rules = mine, mark
            self._limited.clear()

    def secret(self, name: str) -> str:
        """The secret of a key by its "provider/key_id"."""
        return self.key(name).secret.reveal()

    def key(self, name: str) -> KeyConfig:
        return self.settings.key(name.removeprefix(f"{self.settings.id}/"))

    @property
    def all_out(self) -> str | None:
        """Why no key can be used at all; None while one can."""
        if len(self._out) < len(self.settings.keys):
            return None
        return "; ".join(f"{name}: {out.reason}" for name, out in sorted(self._out.items()))

    @property
    def some_out(self) -> bool:
        """Whether a key is out of use that may come back."""
        return bool(self._out)

    @property
    def by_model(self) -> bool:
        """Whether some limits hold for single models only."""
        return any(limits.models or any(limits.days) for limits in self._ruled.values()) or any(
            one.limits() or one.day_limits()
            for key in self.settings.keys
            for one in (*key.models.values(), *self.settings.models.values())
        )

    def model_gone(self, model: str) -> Failure | None:
        """The provider's word, of the last ten minutes, that it doesn't have this model."""
        return self._recall(self._models, model)

    def models_to_try(self, model: str) -> list[str]:
        """The model and its fallbacks, without those known to be gone."""
        wanted = [model, *self.settings.fallback_models.get(model, ())]
        return [one for one in wanted if self.model_gone(one) is None]

    # What was learned

    def answered(self, name: str, model: str) -> None:
        """Notes an answer of a key: what was suspected of it, or of the model, isn't so."""
        self.refusals.answered(name, model)
        self._refused_again.pop(name, None)
        if self._empty:
            self._empty.pop(pool_name(self.settings, self.key(name)), None)

    def untried(self, job_id: int, models: list[str]) -> list[str]:
        """Returns those of the models for which some key hasn't refused this row."""
        if not self.refusals.has_refused(job_id):  # nearly every row: a provider may have thousands of keys
            return models
        names = [f"{self.settings.id}/{key.id}" for key in self.settings.keys]
        return [model for model in models if not self.refusals.refused(job_id, model, names)]

    async def model_refused(self, name: str, model: str, failure: Failure, job_id: int) -> None:
        """Notes that a key refused a row's call of a model. It is held against others only once another row was refused alike
        or the key's free list of models lacks the model; never where the refusal names neither."""
        of_all = failure.kind is FailureKind.MODEL
        self.refusals.leave_out(job_id, ANY_KEY if of_all else name, model)
        if failure.scope is FailureScope.REQUEST:
            return
        if self.refusals.confirms(ANY_KEY if of_all else name, model, job_id) or await self._lacks(name, model):
            if of_all:
                self.remember_model(model, failure)
            else:
                self.remember_key_model(name, model, failure)

    async def _lacks(self, name: str, model: str) -> bool:
        """Asks whether the key's list of models can be read and lacks the model. Those who ask at once share an answer."""
        names: frozenset[str] | None
        until, names = self._listed.get(name, (float("-inf"), frozenset()))
        if until <= self._clock():
            asking = self._listing.get(name)
            if asking is None:
                asking = self._listing[name] = asyncio.ensure_future(self._list(name))
                asking.add_done_callback(lambda _: self._listing.pop(name, None))
            names = await asyncio.shield(asking)
        wanted = {model, model.partition(":")[0]} if not model.startswith("ft:") else {model}
        wanted = {one.removeprefix("models/").lower() for one in wanted}
        return bool(names) and not wanted & (names or frozenset())

    async def _list(self, name: str) -> frozenset[str] | None:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                found = await self._provider.list_models(self.secret(name))
        except Exception as error:
            log.info("%s has no list of models to confirm by: %s", name, type(error).__name__)
            return None
        names = frozenset(model.id.removeprefix("models/").lower() for model in found)
        self._listed[name] = self._clock() + GOOD_SECONDS, names
        return names

    def remember_model(self, model: str, failure: Failure) -> None:
        self._keep(self._models, model, failure)

    def remember_key_model(self, name: str, model: str, failure: Failure) -> None:
        self._keep(self._key_models, (name, model), failure)

    def refused_by_all(self, model: str) -> Failure | None:
        """The provider's word that none of its keys may use this model; None while one might."""
        names = [f"{self.settings.id}/{key.id}" for key in self.settings.keys]
        refused = [self._recall(self._key_models, (name, model)) for name in names]
        return refused[0] if all(refused) else None

    def _keep(self, memory: dict[Any, tuple[float, Failure]], what: object, failure: Failure) -> None:
        memory.pop(what, None)
        memory[what] = (self._clock() + REMEMBER_SECONDS, failure)
        oldest = next(iter(memory))  # all are kept for one time, so the first in is the first out
        if len(memory) > MOST_MODELS or memory[oldest][0] <= self._clock():
            del memory[oldest]

    def _recall(self, memory: dict[Any, tuple[float, Failure]], what: object) -> Failure | None:
        found = memory.get(what)
        if found is None:
            return None
        if found[0] <= self._clock():
            del memory[what]
            return None
        return found[1]

    # Quarantine

    async def quarantine_pool(self, name: str, failure: Failure) -> None:
        """The account of this key has no money or quota: all its keys rest, for all workers; only this one where the provider
        names it alone."""
        pool = pool_name(self.settings, self.key(name))
        known = self._out.get(name)
        wait = failure.retry_after if failure.resets_in is None else failure.resets_in
        seconds = QUOTA_SECONDS if wait is None else _believed(wait)
        if known is None:  # all calls that were under way report the same
            times = self._empty[pool] = self._empty.get(pool, 0) + 1
            if times > 1:
                seconds = max(seconds, EMPTY_AGAIN_SECONDS[min(times - 2, len(EMPTY_AGAIN_SECONDS) - 1)])
        elif known.until is not None:
            seconds = max(seconds, known.until - self._recorder.now())
        seconds = max(1.0, seconds)
        reason = f"{FailureKind.QUOTA}: {failure.message}"
        alone = failure.scope is FailureScope.KEY
        if known is None or known.reason != reason:
            log.warning("%s: %s; its keys rest for %.0f s", name if alone else pool, failure.message, seconds)
        for provider in self._config.providers:
            for key in provider.keys:
                if f"{provider.id}/{key.id}" == name if alone else pool_name(provider, key) == pool:
                    await self._take_out(provider, key, reason, seconds, 0)

    async def confirm(self, name: str, failure: Failure, job_id: int | None = None, before: int = 0) -> bool:
        """Asks the free model list whether a refused key is really bad, and quarantines it if so. Where the list can't be asked, or takes
        the key, the refusal of a second row confirms it, or the third of one row (`before`: those that came before), unless the key was
        good for an answer of late: some lists are open to everybody. False: the key is good, or it isn't known."""
        if name in self._out:
            return True
        if self._good_until.get(name, 0.0) <= self._clock():
            asking = self._confirming.get(name)
            if asking is None:
                # many calls are refused at once: one of them asks, the others wait for the answer
                asking = self._confirming[name] = asyncio.ensure_future(self._confirm(name, failure))
                asking.add_done_callback(lambda _: self._confirming.pop(name, None))
            if await asyncio.shield(asking):
                return True
        if job_id is None or name in self._out:
            return name in self._out
        if not self.refusals.confirms(name, ANY_MODEL, job_id, before):
            return False
        again = self._refused_again[name] = self._refused_again.get(name, -1) + 1
        await self._refuse(name, failure, again)
        return True

    async def _confirm(self, name: str, failure: Failure) -> bool:
        accepted = await self._accepted(name)
        if accepted:
            self._good_until[name] = self._clock() + GOOD_SECONDS
        if accepted is not False:
            return False
        await self._refuse(name, failure)
        return True

    async def _refuse(self, name: str, failure: Failure, again: int = 0) -> None:
        """Quarantines a key. `again`: how often it was taken out before by rows, and let in by a list that takes any key."""
        seconds = PROBE_SECONDS[min(again, len(PROBE_SECONDS) - 1)]
        await self._take_out(self.settings, self.key(name), f"{REFUSED}: {failure.message}", seconds, 0)
        log.warning("%s is refused (%s); quarantined, asked again in %.0f s", name, failure.message, seconds)

    async def _accepted(self, name: str) -> bool | None:
        """Whether the free model list takes a key; None if it can't be asked."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._provider.list_models(self.secret(name))
        except ProviderRefused as error:
            refused = error.failure.kind in (FailureKind.AUTH, FailureKind.KEY_MODEL)
            return False if refused else None
        except Exception as error:
            log.info("%s could not be checked: %s", name, type(error).__name__)
            return None
        return True

    async def lists_models(self, name: str) -> bool | None:
        """Whether what answers at the provider's address lists models, asked with this key: None if that can't be found out."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return True if await self._provider.list_models(self.secret(name)) else None
        except ProviderRefused as error:
            return False if error.failure.scope is FailureScope.ENDPOINT else None
        except Exception as error:
            log.info("the models of %s could not be listed: %s", self.settings.id, type(error).__name__)
            return None

    async def _take_out(
        self, provider: ProviderConfig, key: KeyConfig, reason: str, seconds: float, probes: int
    ) -> None:
        name = f"{provider.id}/{key.id}"
        until = self._recorder.now() + seconds
        if provider.id == self.settings.id:
            self._out[name] = Quarantine(reason, until, probes)
            self._taken_out[name] = self._clock()
        await self._limiter.block(limited_key(provider, key, "").lock, seconds)
        mark = key_store.fingerprint(key.secret.reveal())

        def write(connection: Connection) -> None:
            key_store.quarantine(
                connection,
                provider=provider.id,
                key_id=key.id,
                mark=mark,
                pool=pool_name(provider, key),
                reason=reason,
                now=self._recorder.now(),
                until=until,
                probes=probes,
            )

        await self._recorder.insist(write)

    async def refresh(self) -> None:
        """Takes over what all workers know, and looks after quarantines whose time has come."""
        await self.take_over()
        now = self._recorder.now()
        for name, held in list(self._out.items()):
            if held.until is not None and held.until <= now:
                await self._due(name, held)

    async def take_over(self) -> None:
        """Takes over what all workers know. A new worker does so before its first call."""
        asked = self._clock()
        rows = await self._recorder.call(key_store.everything)
        now = self._recorder.now()
        out: dict[str, Quarantine] = {}
        by_hand_last = sorted(rows, key=lambda row: str(row["fingerprint"]) == key_store.ANY_SECRET)  # so that it wins
        for row in by_hand_last:
            mark = self._marks.get(row["key_id"])
            if row["provider"] != self.settings.id or row["fingerprint"] not in (mark, key_store.ANY_SECRET):
                continue
            if row["state"] == key_store.QUARANTINED:
                until = row["until"]
                if until is not None and _believed(until - now) < until - now:
                    until = await self._bring_near(row, now)
                out[f"{self.settings.id}/{row['key_id']}"] = Quarantine(row["reason"], until, row["probes"])
        for name, held in self._out.items():
            if self._taken_out.get(name, float("-inf")) >= asked - ASK_SECONDS:
                out.setdefault(name, held)  # too young to be in what was read
        lifted = [name for name in self._out if name not in out]
        self._out = out
        for name, held in out.items():  # every time: Redis may have come back empty
            await self._limiter.block(self._lock(name), None if held.until is None else max(1.0, held.until - now))
        for name in lifted:
            await self._limiter.unblock(self._lock(name))
        await self._free_strays()

    async def _bring_near(self, row: RowMapping, now: float) -> float:
        """Shortens a quarantine whose end lies beyond belief: an earlier version, or a wrong clock, has set it. Its new end."""
        until = now + LONGEST_SECONDS
        what = row["provider"], row["key_id"], row["fingerprint"]
        await self._recorder.call(lambda connection: key_store.postpone(connection, *what, row["until"], until))
        return until

    async def _free_strays(self) -> None:
        """Unblocks what Redis still holds back and SQL doesn't: lifted while no worker lived, or read back from an old file. What
        another worker is just taking out, is in SQL by the second look."""
        rooms = await self._limiter.room(list(self._locked.values()))
        found = {room.key.name for room in rooms if room.blocked and room.key.name not in self._out}
        for name in found & self._strays:
            await self._limiter.unblock(self._lock(name))
        self._strays = found - self._strays

    def _lock(self, name: str) -> str:
        """What the limiter calls this key with its present secret."""
        return self._locked[name].lock

    async def _due(self, name: str, held: Quarantine) -> None:
        key = self.key(name)
        mark = self._marks[key.id]
        if held.reason.startswith(REFUSED):
            # only one worker probes: the one that moves `until` on
            wait = PROBE_SECONDS[min(held.probes + 1, len(PROBE_SECONDS) - 1)]
            until = self._recorder.now() + wait

            def mine(connection: Connection) -> bool:
                return key_store.postpone(connection, self.settings.id, key.id, mark, held.until, until)

            if not await self._recorder.call(mine):
                return
            if not await self._accepted(name):
                await self._limiter.block(self._lock(name), wait)
                self._out[name] = Quarantine(held.reason, until, held.probes + 1)
                return
        now = self._recorder.now()
        await self._recorder.call(lambda connection: key_store.lift(connection, self.settings.id, key.id, mark, now))
        await self._limiter.unblock(self._lock(name))
        self._out.pop(name, None)
        log.warning("%s is back in use", name)
