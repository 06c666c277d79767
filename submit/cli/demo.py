"""`truckllm demo`: the main job against the sandbox, on a few hundred example prompts, in well under a minute.

It only sets the stage: a sandbox with limits, a configuration, a state folder of its own. The job is `truckllm run`'s.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from models.config_file import load_config
from models.errors import StorageError
from models.processes import Child
from submit.cli.output import note
from submit.cli.run import Job, do

RESULTS = "demo.results.jsonl"
KEYS = 2
LIMITS = {
    "openai": {"rpm": 300, "tpm": 90_000},
    "gemini": {"rpm": 270, "tpm": 60_000},
    "claude": {"rpm": 240, "tpm": 60_000},
}
"""Of each key, a minute; low enough to see them at work, high enough for a short demo."""

PRICES = {"openai": ("0.00015", "0.0006"), "gemini": ("0.0003", "0.0025"), "claude": ("0.001", "0.005")}
LATENCY_SECONDS = 0.4
START_SECONDS = 20.0


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state folder, to look at it afterwards.")] = False,
) -> None:
    """Run the main job against the sandbox: no keys, no cost, nothing left running.

    It answers a few hundred example prompts by OpenAI, Gemini and Claude, all three played on this machine with limits that
    are enforced, and writes demo.results.jsonl here.
    """
    folder = Path(tempfile.mkdtemp(prefix="truckllm-demo-"))
    try:
        with _sandbox(folder) as (url, accounts), as_file(files("examples") / "prompts.jsonl") as prompts:
            config = folder / "truckllm.yaml"
            config.write_text(_yaml(url, accounts), encoding="utf-8")
            _use(folder)
            note(f"sandbox at {url}: three providers with {KEYS} keys each, limits enforced")
            code = do(Job(str(prompts), out=RESULTS), load_config(config, secrets=True))
    finally:
        if keep:
            note(
                f"kept: {folder} (look around: `TRUCKLLM_HOME={folder}/home TRUCKLLM_CONFIG={folder}/truckllm.yaml truckllm status`)"
            )
        else:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(code)


def _use(folder: Path) -> None:
    """Points this process, and so its workers, at the demo's own state and at no server that the user may have set."""
    for name in ("TRUCKLLM_REDIS_URL", "TRUCKLLM_DATABASE_URL", "TRUCKLLM_CONFIG"):
        os.environ.pop(name, None)
    os.environ["TRUCKLLM_HOME"] = str(folder / "home")


@contextmanager
def _sandbox(folder: Path) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The sandbox in a process of its own that ends with this one: its URL, and the keys it accepts by provider."""
    accounts = {provider: [f"demo-{provider}-{secrets.token_hex(8)}" for _ in range(KEYS)] for provider in LIMITS}
    settings = folder / "sandbox.json"
    ready = folder / "sandbox.url"
    settings.write_text(json.dumps(_settings(accounts)), encoding="utf-8")
    settings.chmod(0o600)
    command = [sys.executable, "-P", "-m", "truckllm", "sandbox", "--port", "0", "--settings", str(settings)]
    command += ["--ready-file", str(ready), "--until-stdin-closes"]
    child = Child("the sandbox", command, log=folder / "sandbox.log")
    try:
        child.start()
        yield _wait(child, ready), accounts
    finally:
        child.release(time.monotonic() + 3.0)


def _wait(child: Child, ready: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if time.monotonic() > deadline or (child.process is not None and child.process.poll() is not None):
            raise StorageError(f"the sandbox didn't start: {child.last_line() or 'it said nothing'}")
        time.sleep(0.02)
    return ready.read_text(encoding="utf-8").strip()


def _settings(accounts: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "latency": LATENCY_SECONDS,
        "jitter": 0.3,
        "accounts": [
            {"provider": provider, "key": key, **LIMITS[provider]}
            for provider, keys in accounts.items()
            for key in keys
        ],
    }


def _yaml(url: str, accounts: dict[str, list[str]]) -> str:
    lines = ["# made by `truckllm demo`: three providers, played by the sandbox", "providers:"]
    for provider, keys in accounts.items():
        price_in, price_out = PRICES[provider]
        lines += [f"  - id: {provider}", f'    base_url: "{url}/{provider}/v1"', "    keys:"]
        for number, key in enumerate(keys, 1):
            lines += [
                f"      - id: {provider}-{number}",
                f'        secret: "{key}"',
                f"        limit_req_per_min: {LIMITS[provider]['rpm']}",
                f"        limit_tokens_per_min: {LIMITS[provider]['tpm']}",
                f"        pricing: {{input_token_cost: {price_in}, output_token_cost: {price_out}, currency: USD}}",
            ]
    return "\n".join(lines) + "\n"
