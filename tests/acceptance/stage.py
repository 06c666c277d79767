"""The stage of the failure tests: one worker process between a database, Valkey and a sandbox, with a provider for each test.

No test meets what another has done to a key, a breaker or a model. It sets no faults and judges nothing.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from models.config import Config
from models.config_file import load_config
from models.database import Database, upgrade
from models.tables import attempts, batches, jobs, key_states
from submit.producer import submit_batch
from tests.servers import TRUCKLLM, SandboxProcess, Valkey, wait_for
from worker.sandbox.quotas import key_name

SECRET = "sk-canary-{}-5d1f0c"
"""Secrets of all keys; none may show up in what the worker says or in the database."""

Row = Mapping[str, Any]


def key(name: str, cost: str = "0.01", **more: Any) -> dict[str, Any]:
    """A key; the cheaper one is used first."""
    pricing = {"input_token_cost": cost, "output_token_cost": cost, "currency": "USD"}
    return {"id": name, "secret": SECRET.format(name), "pricing": pricing, **more}


SLOW_TO_ASK = {"limit_req_per_min": 60}
"""One call a second: a second one comes after the first one's answer."""

PROVIDERS: dict[str, dict[str, Any]] = {
    "told-to-wait": {"keys": [key("wait-a", "0.001"), key("wait-b")]},
    "stubborn": {"keys": [key("stubborn-a")]},
    "quota-openai": {"keys": [key("qo-a", "0.001", pool="qo"), key("qo-b", "0.002", pool="qo"), key("qo-c")]},
    "quota-gemini": {"type": "gemini", "keys": [key("qg-a", "0.001"), key("qg-b")]},
    "quota-claude": {"type": "claude", "keys": [key("qc-a", "0.001"), key("qc-b")]},
    "revoked-openai": {"keys": [key("ro-a", "0.001"), key("ro-b")]},
    "revoked-gemini": {"type": "gemini", "keys": [key("rg-a", "0.001"), key("rg-b")]},
    "revoked-claude": {"type": "claude", "keys": [key("rc-a", "0.001"), key("rc-b")]},
    "glitch": {"keys": [key("glitch-a")]},
    "liar": {"keys": [key("liar-a")]},
    "forbidden": {"keys": [key("forbidden-a", "0.001"), key("forbidden-b")]},
    "renamed": {
        "keys": [key("renamed-a")],
        "fallback_models": {"missing-one": ["missing-two", "gpt-4o"]},
        "models": {"missing-one": SLOW_TO_ASK, "missing-two": SLOW_TO_ASK},
    },
    "gone": {"keys": [key("gone-a")], "models": {"missing-one": SLOW_TO_ASK, "missing-three": SLOW_TO_ASK}},
    "broken": {"keys": [key("broken-a")]},
    "dead": {"base_url": "http://127.0.0.1:1/v1", "keys": [key("dead-a")]},
    "spare": {"keys": [key("spare-a", limit_req_per_min=1200)]},
    "outage": {"keys": [key("outage-a")]},
    "crowd": {"limits": "fixed", "keys": [key("crowd-a")]},
    "flaky": {"keys": [key("flaky-a")]},
    "impatient": {"keys": [key("impatient-a")], "timeout_seconds": 5.0},  # a machine may stand still for less
    "small": {"keys": [key("small-a")], "models": {"gpt-4o": {"context_window": 1000}}},
    "large": {"keys": [key("large-a", limit_req_per_min=1200)], "models": {"gpt-4o": {"context_window": 9000}}},
    "picky": {"keys": [key("picky-a")]},
    "picky-claude": {"type": "claude", "keys": [key("pc-a")]},
    "picky-gemini": {"type": "gemini", "keys": [key("pg-a")]},
    "strict": {"keys": [key("strict-a")], "fallback_models": {"missing-four": ["gpt-4o"]}},
    "frail": {"keys": [key("frail-a")], "models": {"gpt-4o": {"context_window": 1000}}},
    "narrow": {"keys": [key("narrow-a", limit_tokens_per_min=500)]},
}
ROUTES = {
    "renamed-or-spare": {"candidates": ["gone/missing-three", "spare/gpt-4o"]},
    "broken-or-spare": {"candidates": ["broken/gpt-4o", "spare/gpt-4o"]},
    "dead-or-spare": {"candidates": ["dead/gpt-4o", "spare/gpt-4o"]},
    "picky-or-spare": {"candidates": ["picky/gpt-4o", "spare/gpt-4o"]},
    "strict-or-spare": {"candidates": ["strict/missing-five", "spare/gpt-4o"]},
    "frail-or-large": {"candidates": ["frail/gpt-4o", "large/gpt-4o"]},
    "small-or-large": {"candidates": ["small/gpt-4o", "large/gpt-4o"]},
}
MODELS = {"openai": "gpt-4o", "gemini": "gemini-3.5-flash", "claude": "claude-sonnet-5-5"}


class Stage:
    """A worker process at work between a database, Valkey and a sandbox."""

    def __init__(self, folder: Path, sandbox: SandboxProcess, valkey: Valkey) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.valkey = valkey
        self.url = f"sqlite:///{folder}/truckllm.db"
        self.database = Database(self.url)
        upgrade(self.database)
        self.path = folder / "truckllm.yaml"
        self.path.write_text(yaml.safe_dump(self._tree()))
        self.config: Config = load_config(
            self.path,
            secrets=True,
            environ={"TRUCKLLM_REDIS_URL": valkey.url, "TRUCKLLM_DATABASE_URL": self.url},
        )
        self.output = folder / "worker.output"
        self._numbers = iter(range(10**6))
        self.worker = self._start()

    def _tree(self) -> dict[str, Any]:
        def whole(name: str, settings: dict[str, Any]) -> dict[str, Any]:
            kind = settings.get("type", "openai")
            return {"id": name, "type": kind, "base_url": f"{self.sandbox.url}/{kind}/v1", **settings}

        providers = [whole(name, settings) for name, settings in PROVIDERS.items()]
        return {"providers": providers, "routes": ROUTES, "worker": {"grace_seconds": 5}}

    def _start(self) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUCKLLM_")}
        urls = {"TRUCKLLM_REDIS_URL": self.valkey.url, "TRUCKLLM_DATABASE_URL": self.url}
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [*TRUCKLLM, "worker", "-c", str(self.path)],
                cwd=self.folder,
                env={**kept, **urls, "TRUCKLLM_HOME": str(self.folder / "home")},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: self.rows(sa.text("SELECT id FROM workers")), "the worker to register")
        return process

    # What tests do

    def submit(self, lane: str, prompts: int | Sequence[str] = 1, *, no_fallback: bool = False, **more: Any) -> int:
        """A batch of these prompts (or of so many) for a provider or a route; `more` stands in each line."""
        kind = PROVIDERS.get(lane, {}).get("type", "openai")
        place = {"route": lane} if lane in ROUTES else {"provider": lane, "model": MODELS[kind]}
        words = [f"{lane} {n}" for n in range(prompts)] if isinstance(prompts, int) else prompts
        # no two prompts of this module are alike, so that each call belongs to one job
        lines = [{"prompt": f"{word} #{next(self._numbers)}", **place, **more} for word in words]
        return submit_batch(lines, config=self.config, database=self.database, no_fallback=no_fallback).batch_id

    def finish(self, batch: int, seconds: float = 60.0) -> list[Row]:
        """The batch's jobs once all have ended, with their calls under `calls`, oldest first."""

        def ended() -> bool:
            if self.worker.poll() is not None:
                pytest.fail(f"the worker has ended: {self.output.read_text()}")
            return bool(
                self.rows(sa.select(batches.c.id).where(batches.c.id == batch, batches.c.finished_at.is_not(None)))
            )

        try:
            wait_for(ended, f"batch {batch} to end", seconds)
        except pytest.fail.Exception as error:
            left = Counter((job["status"], job["error_code"], len(job["calls"])) for job in self.jobs(batch))
            pytest.fail(f"{error}; its jobs (status, code, calls): {dict(left)}\n{self.output.read_text()[-3000:]}")
        return self.jobs(batch)

    def jobs(self, batch: int) -> list[Row]:
        calls: dict[int, list[Row]] = {}
        by_time = sa.select(attempts).where(attempts.c.batch_id == batch).order_by(attempts.c.started_at, attempts.c.id)
        for row in self.rows(by_time):
            calls.setdefault(row["job_id"], []).append(row)
        found = self.rows(sa.select(jobs).where(jobs.c.batch_id == batch).order_by(jobs.c.position))
        return [{**row, "calls": calls.get(row["id"], [])} for row in found]

    def rows(self, query: Any) -> list[Row]:
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def key_state(self, key_id: str) -> Row | None:
        found = self.rows(sa.select(key_states).where(key_states.c.key_id == key_id))
        return found[0] if found else None

    def calls(self, key_id: str) -> list[Row]:
        """What the sandbox saw of a key, its questions for the model list included."""
        name = key_name(SECRET.format(key_id))
        return [row for row in self.sandbox.log() if row["key_id"] == name]

    def now(self) -> float:
        return time.time()
