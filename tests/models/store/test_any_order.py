"""Whatever order claims, replies, crashes, cancels and reruns come in, counts, results and ledger stay true (on SQLite, by a state machine)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from models.database import Database
from models.finalizing import finalize, reconcile
from models.states import BatchStatus, JobStatus, Outcome
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import claims
from models.store import jobs as job_store
from models.store import reruns as rerun_store
from models.store.attempts import Announcement
from models.store.claims import Claimed
from models.store.endings import Ending, record
from models.tables import attempts, jobs, results
from tests.making import NOW, USAGE, announcement, ending, make_batch, without_call

WORKERS = st.integers(1, 3)
ANY = st.randoms(use_true_random=False)


class Moves(RuleBasedStateMachine):
    """Workers that claim, send, answer, die and wake up again, and people who cancel and rerun, on a few small batches."""

    empty: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        shutil.copy(self.empty, f"{self.folder}/t.db")
        self.database = Database(f"sqlite:///{self.folder}/t.db")
        self.batches = [make_batch(self.database, 3), make_batch(self.database, 2, priority=1)]
        self.claimed: list[tuple[int, Claimed]] = []
        self.sent: list[Announcement] = []
        self.replies: dict[int, Ending] = {}
        self.completed: set[int] = set()

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    @rule(worker=WORKERS, most=st.integers(1, 4))
    def claims(self, worker: int, most: int) -> None:
        with self.database.write() as connection:
            found = claims.claim(
                connection, provider="openai", lanes=["openai"], worker_id=worker, most=most, most_bytes=999, now=NOW
            )
        self.claimed += [(worker, job) for job in found]

    @rule(dice=ANY)
    def sends(self, dice) -> None:  # type: ignore[no-untyped-def]
        if not self.claimed:
            return
        _, job = self.claimed.pop(dice.randrange(len(self.claimed)))
        call = announcement(job)
        with self.database.write() as connection:
            if attempt_store.announce(connection, [call], NOW):
                self.sent.append(call)

    @rule(dice=ANY, how=st.sampled_from(["succeeds", "fails", "snoozes", "unknown", "again"]))
    def answers(self, dice, how: str) -> None:  # type: ignore[no-untyped-def]
        if how == "again" and self.replies:
            done = dice.choice(sorted(self.replies))
            with self.database.write() as connection:
                assert record(connection, [self.replies[done]], 1, NOW) == set()
            return
        if not self.sent:
            return
        call = self.sent.pop(dice.randrange(len(self.sent)))
        match how:
            case "fails":
                what = ending(call, JobStatus.FAILED)
            case "snoozes":
                what = ending(call, JobStatus.QUEUED, not_before=NOW + 5)
            case "unknown":
                what = ending(call, JobStatus.QUEUED, outcome=Outcome.UNKNOWN, usage=None)
            case _:
                what = ending(call)
        with self.database.write() as connection:
            touched = record(connection, [what], dice.randrange(16), NOW)
        self.replies[call.attempt_id] = what
        self.looks(touched)

    @rule(dice=ANY, how=st.sampled_from(["gives back", "snoozes", "fails"]))
    def lets_go(self, dice, how: str) -> None:  # type: ignore[no-untyped-def]
        if not self.claimed:
            return
        _, job = self.claimed.pop(dice.randrange(len(self.claimed)))
        with self.database.write() as connection:
            if how == "fails":
                touched = record(connection, [without_call(job)], 2, NOW)
            else:
                until = NOW + 3 if how == "snoozes" else None
                job_store.give_back(connection, {job.id: job.epoch}, not_before=until)
                touched = set()
        self.looks(touched)

    @rule(worker=WORKERS)
    def is_taken_for_dead(self, worker: int) -> None:
        """Its jobs are given to others while its calls still come back."""
        with self.database.write() as connection:
            job_store.rescue(connection, [worker])

    @rule()
    def time_passes(self) -> None:
        with self.database.write() as connection:
            job_store.wake(connection, ["openai", "claude", "gemini"], NOW + 10)

    @rule(which=st.sampled_from([0, 1]), most=st.integers(1, 3))
    def is_cancelled(self, which: int, most: int) -> None:
        with self.database.write() as connection:
            batch_store.cancel(connection, self.batches[which])
            job_store.cancel_queued(connection, self.batches[which], NOW, most=most)
        self.looks({self.batches[which]})

    @rule(which=st.sampled_from([0, 1]), status=st.sampled_from([JobStatus.FAILED, JobStatus.SUCCEEDED]))
    def is_rerun(self, which: int, status: JobStatus) -> None:
        with self.database.write() as connection:
            if rerun_store.rerun(connection, self.batches[which], rerun_store.Which(status), most=2).number:
                self.completed.discard(self.batches[which])

    @rule(which=st.sampled_from([0, 1]))
    def is_verified(self, which: int) -> None:
        self.adds_up(self.batches[which])

    def looks(self, touched: set[int]) -> None:
        for batch in sorted(touched):
            with self.database.write() as connection:
                done = batch_store.finish_if_done(connection, batch, NOW)
            if done:
                assert batch not in self.completed
                self.completed.add(batch)
                self.adds_up(batch)
                with self.database.read() as connection:
                    status = batch_store.get(connection, batch)["status"]
                assert status == BatchStatus.CANCELLED or finalize(self.database, batch)

    def adds_up(self, batch: int) -> None:
        books = reconcile(self.database, batch)
        assert books is not None
        assert books.sentence == ""

    @invariant()
    def counts_are_those_of_the_rows(self) -> None:
        with self.database.read() as connection:
            for batch in self.batches:
                states = list(connection.execute(sa.select(jobs.c.status).where(jobs.c.batch_id == batch)).scalars())
                counts = batch_store.counts(connection, batch)
                assert counts.total == len(states)
                assert (counts.succeeded, counts.failed, counts.cancelled) == (
                    states.count("succeeded"),
                    states.count("failed"),
                    states.count("cancelled"),
                )
                row = batch_store.get(connection, batch)
                if row["finished_at"] is not None:
                    assert counts.left == 0
                    assert row["status"] in (BatchStatus.COMPLETED, BatchStatus.CANCELLED)

    @invariant()
    def every_success_has_one_result_and_nothing_else_has(self) -> None:
        with self.database.read() as connection:
            kept = list(connection.execute(sa.select(results.c.job_id)).scalars())
            won = list(connection.execute(sa.select(jobs.c.id).where(jobs.c.status == "succeeded")).scalars())
        assert sorted(kept) == sorted(won)

    @invariant()
    def the_ledger_holds_every_call_and_every_known_token_once(self) -> None:
        with self.database.read() as connection:
            rows = connection.execute(sa.select(attempts.c.id, attempts.c.outcome, attempts.c.input_tokens)).all()
            spent = [row for batch in self.batches for row in batch_store.spend(connection, batch)]
        outcomes = {row.id: row for row in rows}
        assert set(outcomes) == {call.attempt_id for call in self.sent} | set(self.replies)
        for call in self.sent:
            assert outcomes[call.attempt_id].outcome == Outcome.UNKNOWN
        known = 0
        for attempt_id, what in self.replies.items():
            assert what.attempt is not None
            known += what.attempt.usage is not None
            tokens = USAGE.input_tokens if what.attempt.usage else None
            assert outcomes[attempt_id].input_tokens == tokens
            assert outcomes[attempt_id].outcome in (what.attempt.outcome, Outcome.FENCED)
        assert sum(row["calls"] for row in spent) == known
        assert sum(row["input_tokens"] for row in spent) == known * USAGE.input_tokens

    @invariant()
    def a_running_job_belongs_to_somebody_and_others_to_nobody(self) -> None:
        with self.database.read() as connection:
            rows = connection.execute(sa.select(jobs.c.status, jobs.c.worker_id, jobs.c.not_before)).all()
        for row in rows:
            assert (row.status == "running") == (row.worker_id is not None)
            assert row.not_before is None or row.status == "queued"


@pytest.mark.timeout(120)
def test_counts_results_and_ledger_stay_true_whatever_happens_in_whatever_order(sqlite_store: Path) -> None:
    Moves.empty = sqlite_store
    run_state_machine_as_test(
        Moves,
        settings=settings(
            max_examples=25,
            phases=[Phase.explicit, Phase.generate],
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            derandomize=True,
            database=None,
        ),
    )
