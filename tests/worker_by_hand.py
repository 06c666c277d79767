"""A worker played by hand, move by move, through the same functions of models.store: for tests of those who only look on."""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

from models import finalizing
from models.database import Database
from models.request import Usage
from models.states import JobStatus, Outcome
from models.store import attempts, claims, workers
from models.store.attempts import Announcement
from models.store.claims import Claimed
from models.store.endings import Answer, AttemptEnd, Ending, record

USAGE = Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=2)


def packed(value: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(value)


class WorkerByHand:
    """One registered worker of one provider; each call is a transaction of its own."""

    def __init__(self, database: Database, provider: str = "openai", *, key_id: str = "oa-1") -> None:
        self.database = database
        self.provider = provider
        self.key_id = key_id
        self._calls = 0
        with database.write() as connection:
            self.id = workers.register(
                connection,
                host="here",
                boot_id="boot",
                pid=1,
                pid_started=1.0,
                queues=[provider],
                config_hash="0" * 16,
                now=database.now(connection),
            )

    def claim(self, most: int = 1, *, lanes: Sequence[str] | None = None) -> list[Claimed]:
        with self.database.write() as connection:
            return claims.claim(
                connection,
                provider=self.provider,
                lanes=lanes or [self.provider],
                worker_id=self.id,
                most=most,
                most_bytes=1 << 30,
                now=self.database.now(connection),
            )

    def announce(
        self, job: Claimed, *, model: str = "gpt-4o", started_at: float | None = None, booked_tokens: int = 100
    ) -> int:
        self._calls += 1
        call = Announcement(
            attempt_id=(self.id << 32) + self._calls,
            job_id=job.id,
            batch_id=job.batch_id,
            epoch=job.epoch,
            provider=self.provider,
            key_id=self.key_id,
            requested_model=model,
            booked_tokens=booked_tokens,
        )
        with self.database.write() as connection:
            now = self.database.now(connection) if started_at is None else started_at
            assert attempts.announce(connection, [call], now) == {call.attempt_id}
        return call.attempt_id

    def succeed(
        self,
        job: Claimed,
        text: str | None = "hello",
        *,
        response: bytes = b'{"ok":true}',
        usage: Usage | None = USAGE,
        cost_nanos: int | None = 1_000,
        currency: str | None = "USD",
        model: str = "gpt-4o",
        started_at: float | None = None,
        announced: int | None = None,
    ) -> int:
        call = announced or self.announce(job, model=model, started_at=started_at)
        self._end(
            job,
            AttemptEnd(
                call,
                self.provider,
                Outcome.SUCCEEDED,
                http_status=200,
                served_model=f"{model}-0806",
                usage=usage,
                cost_nanos=cost_nanos,
                currency=currency,
                latency_ms=12,
                finished_at=1.0,
            ),
            JobStatus.SUCCEEDED,
            answer=Answer(packed(response), None if text is None else packed(text.encode()), "stop", "req-1"),
        )
        return call

    def fail(
        self,
        job: Claimed,
        code: str = "bad_request",
        message: str = "no such thing",
        *,
        outcome: Outcome = Outcome.REJECTED,
        http_status: int | None = 400,
        started_at: float | None = None,
        status: JobStatus = JobStatus.FAILED,
        usage: Usage | None = None,
        cost_nanos: int | None = None,
        currency: str | None = None,
    ) -> int:
        """The call ends so; the job fails, or goes back to the queue."""
        call = self.announce(job, started_at=started_at)
        end = AttemptEnd(
            call,
            self.provider,
            outcome,
            http_status=http_status,
            error_code=code,
            usage=usage,
            cost_nanos=cost_nanos,
            currency=currency,
            latency_ms=3,
            finished_at=1.0,
        )
        self._end(job, end, status, code=code, message=message)
        return call

    def drop(self, job: Claimed) -> int:
        """The call ends without a whole reply: maybe billed; the job fails."""
        return self.fail(job, "timeout", "no reply", outcome=Outcome.UNKNOWN)

    def _end(
        self,
        job: Claimed,
        end: AttemptEnd,
        status: JobStatus,
        *,
        answer: Answer | None = None,
        code: str | None = None,
        message: str | None = None,
    ) -> None:
        failed = status == JobStatus.FAILED
        ending = Ending(
            job_id=job.id,
            batch_id=job.batch_id,
            epoch=job.epoch,
            status=status,
            attempt=end,
            answer=answer,
            error_code=code if failed else None,
            error_message=message if failed else None,
        )
        with self.database.write() as connection:
            ended = record(connection, [ending], self.id, self.database.now(connection))
        for batch_id in ended:
            if finalizing.ended(self.database, batch_id):
                finalizing.finalize(self.database, batch_id)
