"""The states of batches, jobs and attempts, and the moves between them.

It does not make the moves: `models.store` does, each as one guarded statement.

    batch   loading ──publish──▶ queued ──first claim──▶ running ──last job ends──▶ finalizing ──it all adds up──▶ completed
               │                    │                       │  ▲                        │                             │
            (swept)                 └─────────┬─────────────┘  └─────────rerun──────────┴─────────────────────────────┘
                                            pause
                                              ▼
                                            paused ──resume──▶ queued or running, as before
            loading, queued, running, paused ──cancel──▶ cancelled ──rerun──▶ running
            completed, cancelled, finalizing ──delete──▶ deleting ──▶ (gone; its attempts stay)

    job     queued ──claim──▶ running ──succeed──▶ succeeded
              ▲                  ├──fail─────▶ failed ──rerun──▶ queued
              │                  ├──snooze, give back, rescue──▶ queued (cancelled, if its batch is)
              └──────────────────┘
            queued ──cancel──▶ cancelled ──rerun──▶ queued

Every move out of `running` raises the job's `epoch`; a claim raises it too. A finish is valid only while epoch and status are
those of its claim, so a late worker can't overwrite what happened meanwhile.
"""

from __future__ import annotations

from enum import StrEnum


class BatchStatus(StrEnum):
    LOADING = "loading"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    FINALIZING = "finalizing"
    """Its last job has ended; one worker looks whether lines, jobs, results and ledger say the same. It stays so until they do."""
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DELETING = "deleting"
    """Its prompts and replies are being removed; it can't be used any more."""


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


SUSPECT_RESCUES = 2
"""A job whose worker died so often while it ran is a suspect: it runs apart from all others, which it might take with it."""


class Outcome(StrEnum):
    """What became of one call. `unknown` is written before the call leaves: maybe billed, until something better is known."""

    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    RATE_LIMITED = "rate_limited"
    REJECTED = "rejected"
    """The provider refused the request, the key or the model."""
    FAILED = "failed"
    """The provider failed and said so."""
    FENCED = "fenced"
    """A reply that came after the job had been given to somebody else, or cancelled."""
    ABORTED = "aborted"


EMPTY_ANSWER = "empty_answer"
"""The error code of a call whose answer is whole and holds nothing; one that is kept has succeeded all the same."""

RUNNABLE = (BatchStatus.QUEUED, BatchStatus.RUNNING)
UNFINISHED = (
    BatchStatus.LOADING,
    BatchStatus.QUEUED,
    BatchStatus.RUNNING,
    BatchStatus.PAUSED,
    BatchStatus.FINALIZING,
)
STOPPABLE = (BatchStatus.LOADING, BatchStatus.QUEUED, BatchStatus.RUNNING, BatchStatus.PAUSED)
"""What has work left that can be cancelled."""
TERMINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)

NEVER_REACHED = frozenset({"connect_error", "connect_timeout", "dns_error", "tls_error", "proxy_error"})
"""Error codes of calls for which no connection to the provider was made."""
WRONG_ENDPOINT = "wrong_endpoint"
"""Error code of calls that something else than the provider's API answered."""
