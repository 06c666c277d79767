"""Redis killed, away, emptied, read back from its file, full, or a replica: limits hold, and work goes on by itself."""

from __future__ import annotations

import json
import subprocess
import time

from models.tables import key_states
from tests.chaos.ground import Ground
from tests.chaos.registry import scenario
from tests.servers import TRUCKLLM
from worker.sandbox.quotas import key_name

RPM = 900
KEPT = ("--appendonly", "yes", "--appendfsync", "everysec")
GRANTED_AHEAD = 2.0
"""Seconds after Redis is gone in which calls that it had granted before may still start."""


TOKENS = {
    "openai": {"limit_tokens_per_min": 60_000},
    "claude": {"limit_input_tokens_per_min": 8_000, "limit_output_tokens_per_min": 14_000},
}
"""About 600 calls a minute each, of which there are more to make: of a call OpenAI books 100 tokens, Claude 11 and then 22."""


def limited(ground: Ground, rpm: int = RPM, *, limits: dict[str, dict[str, int]] | None = None) -> None:
    """A ground whose sandbox holds each key to the limits that workers are told: of requests, or these of tokens."""
    enforced = {name: {"tpm": sum(told.values())} for name, told in (limits or {}).items()}
    accounts = [
        {
            "provider": name,
            "key": f"sk-chaos-{name}-1",
            **enforced.get(name, {"rpm": rpm}),
            "burst_seconds": 3,
        }
        for name in ("openai", "claude")
    ]
    ground.start(rpm=rpm, limits=limits, sandbox={"accounts": accounts})


def refusals(ground: Ground) -> int:
    """How many calls the sandbox has refused for a limit."""
    return sum(row["status"] == 429 for row in ground.log())


def back_at_work(ground: Ground, since: float, seconds: float = 20.0) -> float:
    """Waits for the first call that starts after `since` (unix seconds); how long that took."""
    first = ground.until(
        lambda: next((row["at"] for row in ground.log() if row["at"] > since), None), "calls to start again", seconds
    )
    return float(first) - since


def judged(ground: Ground) -> None:
    """No refusal for a limit, whatever Redis forgot."""
    found = refusals(ground)
    ground.promise(not found, f"{found} calls were refused for a limit that was to be kept")


@scenario("redis-restarts", short=0.04)
def redis_restarts(ground: Ground) -> None:
    """`kill -9` of Redis, which comes back at once or seconds later, empty or with its file: no minute has more tokens than its limit, nothing is refused."""
    limited(ground, limits=TOKENS)
    ground.submit(ground.some(1500, least=60))
    ground.valkey.kill()
    ground.valkey.start(*KEPT)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > ground.some(300, least=5), "the first rows", 60)
    slowest = 0.0
    for _ in range(ground.some(8, least=2)):
        ground.quiet(ground.rng.uniform(0.0, 1.5 + 4 * ground.scale))
        if ground.left() < 90:
            ground.submit(90)  # or nothing would be left to show that work goes on
        emptied = ground.rng.random() < 0.5
        ground.valkey.kill()
        if emptied:
            for file in ground.valkey.folder.glob("appendonlydir/*"):
                file.unlink()
        ground.quiet(ground.rng.choice([0.0, 0.0, 0.3, 3 * ground.scale]))
        ground.valkey.start(*KEPT)
        slowest = max(slowest, back_at_work(ground, time.time() + GRANTED_AHEAD))
    ground.finish(240)
    judged(ground)
    ground.promise(all(worker.alive for worker in crew), "a worker ended because Redis did")
    ground.remarks.append(f"slowest first call after a restart: {slowest + GRANTED_AHEAD:.1f} s")


@scenario("redis-away")
def redis_away(ground: Ground) -> None:
    """Redis away for 20 s: no new call starts, and all goes on by itself within seconds of its return."""
    limited(ground)
    ground.submit(900)
    for _ in range(2):
        ground.start_worker()
    ground.until(lambda: ground.ended() > 100, "the first rows", 60)
    ground.valkey.kill()
    gone = time.time()
    ground.quiet(20)
    ground.valkey.start()
    back = time.time()
    took = back_at_work(ground, back)
    late = [row for row in ground.log() if gone + GRANTED_AHEAD < row["at"] < back]
    ground.promise(not late, f"{len(late)} calls started while Redis was away")
    ground.promise(took < 15, f"work went on only {took:.1f} s after Redis was back")
    ground.finish(120)
    judged(ground)
    ground.remarks.append(f"first call {took:.1f} s after Redis was back")


@scenario("redis-refuses")
def redis_refuses(ground: Ground) -> None:
    """Redis that is full, or has become a replica, refuses every write: no new call starts, no worker ends, all goes on by itself."""
    limited(ground)
    ground.submit(900)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > 60, "the first rows", 60)
    client = ground.valkey.client()
    for refuse, relent in (
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ):
        client.execute_command(*refuse)
        gone = time.time()
        ground.quiet(8)
        client.execute_command(*relent)
        back = time.time()
        took = back_at_work(ground, back)
        late = [row for row in ground.log() if gone + GRANTED_AHEAD < row["at"] < back]
        ground.promise(not late, f"{len(late)} calls started while Redis refused writes ({refuse[0]})")
        ground.promise(took < 15, f"work went on only {took:.1f} s after {refuse[0]}")
    ground.promise(all(worker.alive for worker in crew), "a worker ended because Redis refused writes")
    ground.finish(120)
    judged(ground)


@scenario("redis-forgets-a-quarantine")
def redis_forgets_a_quarantine(ground: Ground) -> None:
    """A refused key stays out for all workers, through an empty Redis, one read back from its file, and new workers."""
    price = {"output_token_cost": "0.01", "currency": "USD"}
    keys = [
        {"id": "bad", "secret": "sk-chaos-bad-1", "pricing": {"input_token_cost": "0.001", **price}},
        {"id": "good", "secret": "sk-chaos-openai-1", "pricing": {"input_token_cost": "0.002", **price}},
    ]
    ground.start(rpm=None, providers=("openai",), settings={"openai": {"keys": keys}})
    ground.sandbox.faults({"kind": "key_invalid", "key": "sk-chaos-bad-1"})
    crew = [ground.start_worker() for _ in range(2)]

    def used(after: float) -> int:
        """Calls for text on the refused key."""
        return sum(row["at"] > after and row["status"] == 401 for row in ground.log())

    ground.submit(200)
    ground.finish(60)
    ground.promise(0 < used(0.0) <= 64, f"{used(0.0)} calls on a key before it was known to be refused")
    quarantined = time.time()
    for emptied in (True, False):
        ground.valkey.kill()
        if not emptied:
            ground.valkey.start(*KEPT)
            ground.quiet(6)  # all workers have told it
            ground.valkey.kill()
        ground.valkey.start(*(() if emptied else KEPT))
        ground.submit(150)
        ground.finish(60)
    for worker in crew:
        ground.stop(worker)
    ground.valkey.kill()
    ground.valkey.start()
    ground.start_worker()
    ground.submit(150)
    ground.finish(60)
    ground.promise(not used(quarantined), f"{used(quarantined)} calls on a key that was known to be refused")


@scenario("quota-outlives-restarts")
def quota_outlives_restarts(ground: Ground) -> None:
    """A quota error takes all keys of its pool out for all workers, through restarts of everything; `keys` tells why and since when; the reset time ends it."""
    price = {"output_token_cost": "0.01", "currency": "USD"}
    keys = [
        {"id": "a", "secret": "sk-chaos-a-1", "pool": "acme", "pricing": {"input_token_cost": "0.001", **price}},
        {"id": "b", "secret": "sk-chaos-b-1", "pool": "acme", "pricing": {"input_token_cost": "0.002", **price}},
        {"id": "c", "secret": "sk-chaos-openai-1", "pricing": {"input_token_cost": "0.003", **price}},
    ]
    ground.start(rpm=None, providers=("openai",), settings={"openai": {"keys": keys}})
    ground.sandbox.faults({"kind": "quota", "key": "sk-chaos-a-1"})
    crew = [ground.start_worker() for _ in range(2)]
    pool = {key_name("sk-chaos-a-1"), key_name("sk-chaos-b-1")}

    def used(after: float) -> int:
        """Calls on keys of the pool."""
        return sum(row["at"] > after and row["key_id"] in pool for row in ground.log())

    ground.submit(200)
    ground.finish(60)
    known = time.time()
    for worker in crew:
        ground.stop(worker)
    ground.valkey.kill()
    ground.valkey.start()
    crew = [ground.start_worker() for _ in range(2)]
    ground.submit(150)
    ground.finish(60)
    ground.promise(not used(known), f"{used(known)} calls on a pool that was known to have no quota")
    command = [*TRUCKLLM, "keys", "--json", "-c", str(ground.config_path)]
    done = subprocess.run(
        command, cwd=ground.folder, env=ground.environment, capture_output=True, text=True, check=True
    )
    told = {row["key_id"]: row for row in json.loads(done.stdout)["keys"]}
    for key in ("a", "b"):
        shown = told[key]
        whole = shown["state"] == "quarantined" and "quota" in shown["reason"] and shown["since"] and shown["until"]
        ground.promise(bool(whole), f"`keys` doesn't tell why, since and until when: {shown}")
    ground.promise(told["c"]["state"] == "active", "a key of another pool is out too")
    ground.sandbox.faults()
    reset = time.time() + 8
    with ground.database.write() as connection:
        connection.execute(key_states.update().values(until=reset))
    ground.quiet(7)
    ground.promise(not used(known), "a key was used before its reset time")
    ground.until(lambda: bool(ground.submit(10)) and used(reset), "the pool to be used again", 30, every=1.0)
    ground.finish(60)
