"""Tickets that are doubled, dropped, late or rubbish: no row is lost, doubled, or late by more than 15 s."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import sqlalchemy as sa
from celery import Celery

from models.queues import DRAIN, TRANSPORT_OPTIONS, Ticket, broker_url, queue_name
from models.tables import jobs
from submit.bell import ring
from tests.chaos.ground import Ground
from tests.chaos.registry import scenario

LATEST = 15.0
"""Seconds by which a ticket's fate may delay a row."""
RUBBISH = (
    b"not json",
    b"\xff\xfe\x00",
    b"{}",
    b"[]",
    b"null",
    b'{"body": "", "headers": {}, "properties": {}}',
    b'{"body": "e30=", "content-type": "application/json", "content-encoding": "utf-8", "headers": {}, "properties": {"delivery_tag": "x"}}',
)


def doubled(ground: Ground) -> None:
    ring(ground.valkey.url, {"openai": 50, "claude": 50})


def strange(ground: Ground) -> None:
    """Well-formed messages that are no tickets of ours: for providers that nobody serves, of other tasks, with other arguments."""
    app = Celery("strange", broker=broker_url(ground.valkey.url), set_as_current=False)
    app.conf.update(broker_transport_options=TRANSPORT_OPTIONS, task_ignore_result=True)
    queue = queue_name("openai")
    app.send_task(DRAIN, kwargs=dict(Ticket(provider="nobody", hops=0)), queue=queue)
    app.send_task(DRAIN, kwargs={"provider": "openai", "hops": "many"}, queue=queue)
    app.send_task(DRAIN, kwargs={"colour": "red"}, queue=queue)
    app.send_task(DRAIN, args=[None, None, None], queue=queue)
    app.send_task("somebody.elses", queue=queue)
    app.send_task(DRAIN, kwargs=dict(Ticket(provider="openai", hops=0)), queue=queue, expires=-5)
    app.close()


def rubbish(ground: Ground) -> None:
    with contextlib.closing(ground.valkey.client()) as client:
        for name in ("openai", "claude"):
            client.lpush(f"truckllm:{queue_name(name)}", *RUBBISH)


def dropped(ground: Ground) -> None:
    with contextlib.closing(ground.valkey.client()) as client:
        client.delete(*(f"truckllm:{queue_name(name)}" for name in ("openai", "claude")))


def flushed(ground: Ground) -> None:
    with contextlib.closing(ground.valkey.client()) as client:
        client.flushall()


ATTACKS: dict[str, Callable[[Ground], None]] = {
    "doubled": doubled,
    "strange": strange,
    "rubbish": rubbish,
    "dropped": dropped,
    "flushed": flushed,
}


@scenario("tickets", short=0.1)
def tickets(ground: Ground) -> None:
    """Tickets doubled fifty times, of strangers, rubbish, dropped and flushed: no row lost, doubled, or late by more than 15 s."""
    ground.start(latency=0.05, rpm=None)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: all(ground.registered(worker) for worker in crew), "the workers to register", 60)
    slowest: dict[str, float] = {}
    for name in list(ATTACKS) * ground.some(3):
        before = ground.rng.random() < 0.5
        if before:
            ATTACKS[name](ground)
        number = ground.submit(ground.some(200, least=20))
        began = time.monotonic()
        if not before:
            ATTACKS[name](ground)
        left = sa.select(sa.func.count()).where(jobs.c.batch_id == number, jobs.c.finished_at.is_(None))
        ground.until(lambda left=left: not ground.number(left), f"a batch behind {name} tickets to end", 60)  # type: ignore[misc]
        slowest[name] = max(slowest.get(name, 0.0), time.monotonic() - began)
    ground.finish(60)
    for name, seconds in slowest.items():
        ground.promise(seconds < LATEST + 5, f"a batch behind {name} tickets took {seconds:.1f} s")
    ground.promise(all(worker.alive for worker in crew), "a worker ended for a ticket")
    ground.remarks.append(
        "slowest batches: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest.items())
    )
