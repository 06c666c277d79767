"""How much of their limits six keys are used, and how often the provider has to say 429: by one worker process, then by three.

The sandbox enforces requests and tokens a minute on each key, each provider by its own rule, with one second's burst. What is
counted is its own log, over 60 s once all workers are up. It is no test: nothing here fails because a machine is slow.

    python bench/limits.py [--seconds 60] [--workers 1 3]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

TRUCKLLM = [sys.executable, "-P", "-m", "truckllm"]
WARM_UP_SECONDS = 3
MAX_TOKENS = 60
MODELS = {"openai": "gpt-bench", "gemini": "gemini-bench", "claude": "claude-bench"}
LIMITS = {"openai": (600, 200_000), "gemini": (1200, 30_000), "claude": (600, 24_000)}
"""Requests and tokens a minute of each key: OpenAI is bound by requests, Gemini by input tokens, Claude by tokens in and out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3])
    options = parser.parse_args()
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), workers, options.seconds)


def measure(folder: Path, workers: int, seconds: int) -> None:
    accounts = [
        {"provider": provider, "key": secret(provider, number), "rpm": rpm, "tpm": tpm, "burst_seconds": 1.0}
        for provider, (rpm, tpm) in LIMITS.items()
        for number in (1, 2)
    ]
    settings = folder / "sandbox.yaml"
    settings.write_text(yaml.safe_dump({"accounts": accounts, "latency": 0.3}))
    sandbox = subprocess.Popen(
        [*TRUCKLLM, "sandbox", "--port", "0", "--settings", str(settings)], stdout=subprocess.PIPE, text=True
    )
    assert sandbox.stdout is not None
    url = sandbox.stdout.readline().split()[2]
    config = folder / "truckllm.yaml"
    config.write_text(yaml.safe_dump({"providers": [provider_block(name, url) for name in LIMITS]}))
    prompts = folder / "prompts.jsonl"
    write_prompts(prompts, seconds)
    environment = {**os.environ, "TRUCKLLM_HOME": str(folder / "home"), "TRUCKLLM_CONFIG": str(config)}
    subprocess.run([*TRUCKLLM, "submit", str(prompts)], env=environment, check=True, stdout=subprocess.DEVNULL)
    worker = subprocess.Popen(
        [*TRUCKLLM, "worker", "--processes", str(workers)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        begin = first_call(url) + WARM_UP_SECONDS
        time.sleep(max(0.0, begin + seconds - time.time()))
        report(workers, log(url, begin, begin + seconds), seconds)
    finally:
        worker.terminate()
        worker.wait(90)
        sandbox.terminate()
        sandbox.wait()


def secret(provider: str, number: int) -> str:
    return f"{provider}-secret-{number}"


def provider_block(name: str, url: str) -> dict[str, Any]:
    rpm, tpm = LIMITS[name]
    keys = [
        {"id": f"{name}-{n}", "secret": secret(name, n), "limit_req_per_min": rpm, "limit_tokens_per_min": tpm}
        for n in (1, 2)
    ]
    return {"id": name, "base_url": f"{url}/{name}/v1", "keys": keys}


def write_prompts(path: Path, seconds: int) -> None:
    """More work than can be done in the time, of all sizes, in a mixed order."""
    rng = random.Random(1)
    with path.open("w") as file:
        for number in range(60 * seconds + 3000):
            provider = ("openai", "gemini", "claude")[number % 3]
            prompt = f"{number} " + "word " * rng.randint(20, 160)
            line = {"provider": provider, "model": MODELS[provider], "prompt": prompt, "max_tokens": MAX_TOKENS}
            file.write(json.dumps(line) + "\n")


def log(url: str, begin: float, end: float) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/_sandbox/log") as reply:
        rows = [json.loads(line) for line in reply.read().splitlines()]
    return [row for row in rows if begin <= row["at"] < end]


def first_call(url: str) -> float:
    while True:
        rows = log(url, 0.0, float("inf"))
        if rows:
            return float(rows[0]["at"])
        time.sleep(0.1)


def report(workers: int, rows: list[dict[str, Any]], seconds: int) -> None:
    print(f"{workers} worker process(es), {seconds} s")
    for provider, (rpm, tpm) in LIMITS.items():
        mine = [row for row in rows if row["provider"] == provider]
        good = [row for row in mine if not row["limited"]]
        minutes = seconds / 60
        requests = len(good) / (2 * rpm * minutes)
        tokens = sum(charged(provider, row) for row in good) / (2 * tpm * minutes)
        refused = len(mine) - len(good)
        by_key = Counter(row["key_id"] for row in good)
        print(
            f"  {provider:<7} {max(requests, tokens):6.1%} of the binding limit ({'requests' if requests > tokens else 'tokens'})"
            f"   {len(mine)} calls, {refused} times 429 ({refused / max(1, len(mine)):.2%}), by key {sorted(by_key.values())}"
        )


def charged(provider: str, row: dict[str, Any]) -> int:
    """What the provider's own rule takes from the key's tokens."""
    if provider == "openai":
        return max(MAX_TOKENS, int(row["input_tokens"]))
    if provider == "gemini":
        return int(row["input_tokens"])
    return int(row["input_tokens"]) - int(row["cached_tokens"]) + int(row["output_tokens"])


if __name__ == "__main__":
    main()
