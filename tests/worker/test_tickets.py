"""Whatever lies in a queue, the next ticket is taken: a real consumer on a real server, and strangers that write to it."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

from models.queues import MAX_HOPS, Ticket
from tests.fuzz.seeds import seeds
from worker.tasks import clean_message, read_ticket

CONSUMER = """
import os, sys, threading
from models.queues import DRAIN, queue_name
from tests.fuzz.seeds import seeds
from worker.app import make_app
from worker.tasks import register
import redis

taken = threading.Event()
app = make_app(sys.argv[1], ["strangers"])
register(app, lambda provider, hops: taken.set() if provider == "the last" else None)
queue = queue_name("strangers")
RUBBISH = [
    b"not json", b"\\xff\\xfe", b"null", b"{}", b"[" * 100_000, b'{"a":' * 100_000,
    b'{"properties": {}}', b'{"properties": {"delivery_tag": [1]}}', b'{"properties": {"delivery_tag": null}, "headers": 7}',
    b'{"body": 5, "properties": {"delivery_tag": "a"}}', b'{"body": "!", "properties": {"delivery_tag": "b", "body_encoding": "rot13"}}',
    b'{"body": "!!!", "properties": {"delivery_tag": "c", "body_encoding": "base64"}}',
]

def strangers():
    try:
        client = redis.Redis.from_url(sys.argv[1])
        for _ in range(3):  # more than there are places for tickets under way
            client.lpush("truckllm:" + queue, *RUBBISH, *seeds("ticket"))
        app.send_task(DRAIN, kwargs={"provider": "the last", "hops": 0}, queue=queue, retry=False)
        print("taken" if taken.wait(60) else "never taken", flush=True)
    finally:
        os._exit(0)

threading.Thread(target=strangers, daemon=True).start()
app.Worker(
    hostname="a@b", pool_cls="threads", concurrency=2, queues=[queue], without_gossip=True, without_mingle=True,
    without_heartbeat=True, quiet=True,
).start()
print("the worker ended")
"""


def test_a_consumer_takes_the_next_ticket_whatever_strangers_have_put_before_it(valkey_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, valkey_url], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["taken"], done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("hops", [0, 1, MAX_HOPS])
def test_a_ticket_is_read_as_it_was_written(hops: int) -> None:
    ticket = Ticket(provider="Zürich/√", hops=hops)
    assert read_ticket(clean_message(ticket, "provider.x")) == ticket


def test_the_good_ticket_among_those_that_only_look_like_one_is_the_first() -> None:
    first, *others = [read_ticket(orjson.loads(data)) for data in seeds("ticket")]
    assert first == Ticket(provider="openai", hops=0)
    known = [one for one in others if one is not None]
    assert known == [first, first]  # a time, or limits of it, are strangers' words and go no further
