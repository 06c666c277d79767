"""Jobs of traced batches: each makes one call, which is kept with what came of it, and is never repeated.

It decides nothing that `worker.failover` does; it says what that would have been.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from models.config import ProviderConfig
from models.states import JobStatus
from models.store.endings import Ending
from worker.failover import Verdict
from worker.providers.masks import provider_secrets
from worker.providers.replies import encode
from worker.redaction import told
from worker.tracing import Trace


def then(verdict: Verdict) -> dict[str, Any]:
    """What an ordinary job would do after a failed call: {fails, seconds, leaves, about}."""
    return {
        "fails": verdict.fails,
        "seconds": None if verdict.delay is None else round(verdict.delay, 1),
        "leaves": list(verdict.exclude),
        "about": str(verdict.about),
    }


def one_call(ending: Ending, trace: Trace, config: ProviderConfig, pack: Callable[[bytes], bytes]) -> Ending:
    """The ending of a job after its only call: with the trace, and failed where an ordinary job would be asked again."""
    kept = pack(encode(told(trace, provider_secrets(config), config.headers)))
    if ending.status is JobStatus.QUEUED:
        return replace(ending, status=JobStatus.FAILED, not_before=None, trace=kept)
    return replace(ending, trace=kept)
