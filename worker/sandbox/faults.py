"""Which fault, if any, hits a call: the counting behind `times`, `every`, `rate` and the time window.

It decides; what a fault does to an answer is the call's business.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from worker.sandbox.dialect import Chat
from worker.sandbox.settings import STREAM_ONLY, Fault, ProviderName


class _Armed:
    """A fault with its counters."""

    __slots__ = ("_seen", "_used", "fault", "matched", "salt")

    def __init__(self, fault: Fault, salt: str) -> None:
        self.fault = fault
        self.salt = salt
        self.matched = 0
        self._seen: Counter[str] = Counter()
        self._used: Counter[str] = Counter()

    def fires(self, sha: str) -> bool:
        """Count a matching call in and say whether it is hit."""
        fault = self.fault
        self.matched += 1
        if fault.every is not None and self.matched % fault.every:
            return False
        if fault.rate is not None:
            # by prompt and its how-manieth call, not by order of arrival: the same file meets the same faults
            self._seen[sha] += 1
            dice = hashlib.sha256(f"{self.salt}\0{sha}\0{self._seen[sha]}".encode()).digest()
            if int.from_bytes(dice[:6], "big") >= fault.rate * 2**48:
                return False
        if fault.times is not None:
            name = "" if fault.contains is None else sha
            if self._used[name] >= fault.times:
                return False
            self._used[name] += 1
        return True


class FaultList:
    """The faults in force since `now` (monotonic seconds)."""

    def __init__(self, faults: Sequence[Fault], seed: int, now: float) -> None:
        armed = [_Armed(fault, f"{seed}/{index}") for index, fault in enumerate(faults)]
        self._since = now
        self._by_head = [one for one in armed if one.fault.before_body]
        self._by_body = [one for one in armed if not one.fault.before_body and one.fault.calls != "models"]
        self._for_models = [one for one in armed if one.fault.hits_models and not one.fault.before_body]

    def for_head(self, provider: ProviderName, secret: str | None, now: float) -> Fault | None:
        """The fault that hits a call of which only the head is read."""
        for armed in self._by_head:
            if self._matches(armed.fault, provider, secret, now) and armed.fires(""):
                return armed.fault
        return None

    def for_chat(self, provider: ProviderName, secret: str, chat: Chat, now: float) -> Fault | None:
        """The fault that hits a valid call within its limits."""
        for armed in self._by_body:
            fault = armed.fault
            if (
                self._matches(fault, provider, secret, now)
                and (fault.model is None or fnmatchcase(chat.model, fault.model))
                and (fault.contains is None or fault.contains in chat.prompt)
                and (chat.stream or fault.kind not in STREAM_ONLY)
                and armed.fires(chat.sha)
            ):
                return fault
        return None

    def for_models(self, provider: ProviderName, secret: str, now: float) -> Fault | None:
        """The fault that hits a question for models."""
        for armed in self._for_models:
            fault = armed.fault
            everywhere = fault.contains is None and fault.model is None
            if everywhere and self._matches(fault, provider, secret, now) and armed.fires(""):
                return fault
        return None

    def _matches(self, fault: Fault, provider: ProviderName, secret: str | None, now: float) -> bool:
        since = now - self._since
        return (
            (fault.provider is None or fault.provider == provider)
            and (fault.key is None or fault.key == secret)
            and (fault.after is None or since >= fault.after)
            and (fault.until is None or since < fault.until)
        )
