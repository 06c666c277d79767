"""All that the calls of one sandbox share: settings, keys, faults, log, and the dice for latency.

It serves no call itself.
"""

import random
import time
from collections.abc import Sequence

from worker.sandbox.caches import PromptCache
from worker.sandbox.faults import FaultList
from worker.sandbox.quotas import Holder, Register, key_name
from worker.sandbox.settings import Account, Fault, ProviderName, SandboxSettings
from worker.sandbox.truth import TruthLog


class House:
    """The state of a sandbox. `reset` starts everything anew, as if just started; calls on their way end in the old log."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        self._accounts: Sequence[Account] = settings.accounts
        self._faults: Sequence[Fault] = settings.faults
        self.log = TruthLog(settings.log_rows, settings.log)
        self.in_flight = 0  # calls that were admitted and have not ended
        self._begin()

    def _begin(self) -> None:
        now = time.monotonic()
        self._dice = random.Random(self.settings.seed)
        self.register = Register(self._accounts, self.settings.limits, now)
        self.faults = FaultList(self._faults, self.settings.seed, now)
        self.cache = PromptCache()

    def reset(self) -> None:
        """Empty log, full buckets, empty caches, unused faults."""
        self.log = self.log.renewed()
        self._begin()

    def set_faults(self, faults: Sequence[Fault]) -> None:
        """Replace the list of faults; their clocks and counters start now."""
        self._faults = faults
        self.faults = FaultList(faults, self.settings.seed, time.monotonic())

    def set_accounts(self, accounts: Sequence[Account]) -> None:
        """Replace the accepted keys; every bucket is full again, every cache empty."""
        self._accounts = accounts
        self.register = Register(accounts, self.settings.limits, time.monotonic())
        self.cache = PromptCache()

    def key_id(self, secret: str | None, holder: Holder | None) -> str | None:
        if holder is not None:
            return holder.key_id
        return None if secret is None else key_name(secret)

    def model_names(self, provider: ProviderName) -> list[str]:
        return self.settings.models.get(provider, [])

    def latency(self) -> float:
        """Returns the seconds until a reply: `latency`, spread log-normally by `jitter` (sigma) around it as the median, and more
        where more calls are in flight than the server serves well."""
        settings = self.settings
        seconds, load = settings.latency, settings.load
        extra = 0.0
        if load is not None and self.in_flight > load.above:
            seconds = seconds if load.latency is None else load.latency
            extra = load.growth * (self.in_flight - load.above)
        if settings.jitter and seconds:
            seconds *= self._dice.lognormvariate(0.0, settings.jitter)
        return seconds + extra

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
