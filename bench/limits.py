"""How much of the limits that a server enforces is used, and how often it answers 429, where the configuration is right and where it isn't.

The sandbox plays the servers. What is counted is its own log, from a second after the first call on, when whatever is to be learned has
been learned. It is no test: nothing here fails because a machine is slow.

    python bench/limits.py [--rows right concurrent] [--workers 1 2 4 8] [--start 30] [--seconds 90]
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

TRUCKLLM = [sys.executable, "-P", "-m", "truckllm"]
MAX_TOKENS = 60
OUTPUT_TOKENS = 40
FEWEST_CALLS = 300
"""Below so many calls in the window a share says little: then the number of 429s counts."""


@dataclass(frozen=True)
class Row:
    """A server and what its keys are configured with. `enforced` are a sandbox account's settings, `sandbox` the server's own;
    `configured` the limits in the configuration, nothing where they are empty."""

    what: str
    enforced: dict[str, Any]
    configured: dict[str, int] = field(default_factory=dict)
    provider: str = "openai"
    keys: int = 1
    sandbox: dict[str, Any] = field(default_factory=lambda: {"latency": 0.3})
    concurrency: int | None = None
    words: tuple[int, int] = (20, 160)
    at_once: int | None = None
    """So many calls at once, of `latency` seconds each, are what the server can do where it states no limit."""


def limits(rpm: int | None = None, tpm: int | None = None) -> dict[str, int]:
    named = {"limit_req_per_min": rpm, "limit_tokens_per_min": tpm}
    return {name: number for name, number in named.items() if number is not None}


ONE_SECOND = {"latency": 1.0}
ROWS: dict[str, Row] = {
    "openai": Row("as configured, requests bind", {"rpm": 600, "tpm": 200_000}, limits(600, 200_000), keys=2),
    "gemini": Row(
        "as configured, input tokens bind", {"rpm": 1200, "tpm": 30_000}, limits(1200, 30_000), "gemini", keys=2
    ),
    "claude": Row("as configured, all tokens bind", {"rpm": 600, "tpm": 24_000}, limits(600, 24_000), "claude", keys=2),
    "unconfigured": Row("300 RPM, Retry-After 1; nothing configured", {"rpm": 300, "retry_after": 1}),
    "concurrent": Row(
        "8 calls at once; nothing configured", {"concurrent": 8, "retry_after": "none"}, sandbox=ONE_SECOND
    ),
    "concurrent-rpm": Row(
        "8 calls at once; 6,000 RPM configured",
        {"concurrent": 8, "retry_after": "none"},
        limits(6000),
        sandbox=ONE_SECOND,
    ),
    "half": Row("300 RPM, Retry-After right; 600 RPM configured", {"rpm": 300}, limits(600)),
    "half-zero": Row("300 RPM, Retry-After 0; 600 RPM configured", {"rpm": 300, "retry_after": 0}, limits(600)),
    "half-tokens": Row(
        "20,000 TPM by prompt + max_tokens; 40,000 TPM configured",
        {"tpm": 20_000, "counts": "both"},
        limits(tpm=40_000),
    ),
    "other-count": Row(
        "200,000 TPM × 2 keys by prompt + max_tokens; the same configured",
        {"tpm": 200_000, "counts": "both"},
        limits(tpm=200_000),
        keys=2,
    ),
    "factor": Row(
        "20,000 TPM by 1.3 × the tokens, sliding minute; 20,000 TPM configured",
        {"tpm": 20_000, "counts": "usage", "count_factor": 1.3, "window": "sliding"},
        limits(tpm=20_000),
    ),
    "slow": Row(
        "60 s latency above 20 at once; concurrency 128",
        {},
        sandbox={"latency": 1.0, "load": {"above": 20, "latency": 60.0}},
        concurrency=128,
        at_once=20,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--start", type=float, default=30, help="seconds after the first call at which counting begins")
    parser.add_argument("--seconds", type=int, default=90, help="seconds that are counted")
    options = parser.parse_args()
    print(f"from second {options.start:g} to {options.start + options.seconds:g}")
    for name in options.rows:
        print(f"{name}: {ROWS[name].what}")
        for workers in options.workers:
            with tempfile.TemporaryDirectory() as folder:
                print(f"  {measure(Path(folder), ROWS[name], workers, options.start, options.seconds)}", flush=True)


def measure(folder: Path, row: Row, workers: int, start: float, seconds: int) -> str:
    secrets = [f"{row.provider}-secret-{number}" for number in range(row.keys)]
    accounts = [{"provider": row.provider, "key": secret, **row.enforced} for secret in secrets]
    settings = folder / "sandbox.yaml"
    settings.write_text(yaml.safe_dump({"accounts": accounts, "output_tokens": OUTPUT_TOKENS, **row.sandbox}))
    sandbox = subprocess.Popen(
        [*TRUCKLLM, "sandbox", "--port", "0", "--settings", str(settings)], stdout=subprocess.PIPE, text=True
    )
    assert sandbox.stdout is not None
    url = sandbox.stdout.readline().split()[2]
    config = folder / "truckllm.yaml"
    config.write_text(yaml.safe_dump(configuration(row, url, secrets)))
    prompts = folder / "prompts.jsonl"
    write_prompts(prompts, row, start + seconds)
    environment = {**os.environ, "TRUCKLLM_HOME": str(folder / "home"), "TRUCKLLM_CONFIG": str(config)}
    submit = [*TRUCKLLM, "submit", str(prompts)]
    subprocess.run(submit, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker = subprocess.Popen(
        [*TRUCKLLM, "worker", "--processes", str(workers)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        begin = first_call(url) + start
        time.sleep(max(0.0, begin + seconds - time.time()))
        return report(row, workers, list(log(url)), begin, seconds)
    finally:
        worker.terminate()
        worker.wait(90)
        sandbox.terminate()
        sandbox.wait()


def configuration(row: Row, url: str, secrets: list[str]) -> dict[str, Any]:
    keys = [{"id": f"k{n}", "secret": secret, **row.configured} for n, secret in enumerate(secrets)]
    block = {"id": row.provider, "base_url": f"{url}/{row.provider}/v1", "keys": keys, "limits": "learn"}
    worker = {} if row.concurrency is None else {"worker": {"concurrency": row.concurrency}}
    return {"providers": [block], **worker}


def write_prompts(path: Path, row: Row, seconds: float) -> None:
    """More work than can be done in the time, of all sizes, in a mixed order."""
    rng = random.Random(1)
    rate = row.enforced.get("rpm", 0) * row.keys / 60
    with path.open("w") as file:
        for number in range(int(max(rate, 30) * 2 * seconds) + 2000):
            prompt = f"{number} " + "word " * rng.randint(*row.words)
            line = {"provider": row.provider, "model": "bench", "prompt": prompt, "max_tokens": MAX_TOKENS}
            file.write(json.dumps(line) + "\n")


def log(url: str) -> Iterator[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/_sandbox/log") as reply:
        for line in reply.read().splitlines():
            yield json.loads(line)


def first_call(url: str) -> float:
    while True:
        for row in log(url):
            return float(row["at"])
        time.sleep(0.1)


def report(row: Row, workers: int, calls: list[dict[str, Any]], begin: float, seconds: int) -> str:
    """One line: the share of the limit that binds, and the 429s."""
    end = begin + seconds
    mine = [call for call in calls if begin <= call["at"] < end]
    good = [call for call in mine if not call["limited"]]
    refused = len(mine) - len(good)
    minutes = seconds / 60
    shares: dict[str, float] = {}
    if rpm := row.enforced.get("rpm"):
        shares["requests"] = len(good) / (row.keys * rpm * minutes)
    if tpm := row.enforced.get("tpm"):
        shares["tokens"] = sum(charged(row, call) for call in good) / (row.keys * tpm * minutes)
    if concurrent := row.enforced.get("concurrent"):
        answered = [call for call in calls if not call["limited"]]
        shares["calls at once"] = busy_seconds(answered, begin, end) / (row.keys * concurrent * seconds)
    if row.at_once is not None:
        answered = [call for call in calls if begin <= (call["finished_at"] or end) < end and call["status"] == 200]
        shares["possible answers"] = len(answered) * row.sandbox["latency"] / (row.at_once * seconds)
    unit = max(shares, key=lambda name: shares[name])
    few = f"  (fewer than {FEWEST_CALLS} calls)" if len(mine) < FEWEST_CALLS else ""
    by_key = f", by key {sorted(Counter(call['key_id'] for call in good).values())}" if row.keys > 1 else ""
    return (
        f"{workers} worker(s): {shares[unit]:6.1%} of the real limit ({unit}), {len(mine)} calls,"
        f" {refused} times 429 ({refused / max(1, len(mine)):.2%}){by_key}{few}"
    )


def charged(row: Row, call: dict[str, Any]) -> float:
    """The tokens that the server took from the key's limit for an admitted call."""
    output = int(call["output_tokens"])
    if row.enforced.get("counts") == "usage":
        output = int(output * row.enforced.get("count_factor", 1.0))
    elif row.provider != "claude" or "counts" in row.enforced:
        output = 0
    return int(call["booked_tokens"]) + output


def busy_seconds(calls: list[dict[str, Any]], begin: float, end: float) -> float:
    """The seconds between `begin` and `end` that calls were in flight, in sum."""
    return sum(max(0.0, min(call["finished_at"] or end, end) - max(call["at"], begin)) for call in calls)


if __name__ == "__main__":
    main()
