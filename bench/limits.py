"""How much of the limits that a server enforces is used, and how often it answers 429, where the configuration is right and where it isn't.

The sandbox plays the servers (`limits_rows.py`). What is counted is its own log, from second 30 after the first call on, when whatever is
to be learned has been learned. Each run has a sandbox, a database and a Redis of its own; several go on at the same time, as many as
`--parallel` says in units of about an eighth of a processor. It is no test: nothing here fails because a machine is slow. `busy` is the
share of the machine that was in use, by anybody: above 90 % a share says little.

    python bench/limits.py [--rows table right learn half concurrent] [--workers 1 2 4 8] [--parallel 8] [--json FILE]

Columns:
    share    of the real limit, from second 30 to 120: of requests, tokens, seconds of calls in flight or possible answers, whichever is
             used most. With limits of its own for each model, that of the model with the least. Where the server counts whole minutes, it
             is the share of what was left to take after second 30. Without limits: calls answered, beside `limits: fixed` at the same time.
    429      refused calls of those in the same window.
    probing  the same, but only those after the first 10 s without any: the limit had been found, and was tried again.
    early    share from second 2 to 12.
    verdict  at least 95 % and at most 0.5 %; where the configuration is right at least 98 % and 0.1 %, and 95 % early; probing at most
             0.2 %, or one call. With fewer than 300 calls in the window, at most one refusal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from limits_rows import DEFAULT_ROWS, GROUPS, OUTPUT_TOKENS, ROWS, Row

from worker.sandbox.buckets import FixedMinute, SlidingMinute
from worker.sandbox.quotas import key_name

TRUCKLLM = [sys.executable, "-P", "-m", "truckllm"]
FEWEST_CALLS = 300
"""Below so many calls in the window a share says little: then the number of 429s counts."""
EARLY = (2.0, 12.0)
QUIET_SECONDS = 10.0
CALLS_A_UNIT = 40
"""Calls a second that take about an eighth of a processor, sandbox and worker together."""

Call = dict[str, Any]


@dataclass(frozen=True)
class Spent:
    """Processor time in the window: the share of the machine that was in use, and seconds of the sandbox and of the workers with Redis."""

    busy: float
    sandbox: float
    worker: float


@dataclass(frozen=True)
class Figures:
    """The figures of one run. Shares are of 1; `possible` is the share of what a server that counts whole minutes had left. `sandbox_ms` and
    `worker_ms` are processor milliseconds a call, Redis among the workers'."""

    row: str
    workers: int
    what: str
    unit: str
    share: float
    possible: float
    calls: int
    refused: int
    probing: int
    early: float
    by_model: dict[str, float]
    by_key: list[int]
    busy: float
    sandbox_ms: float
    worker_ms: float
    verdict: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*GROUPS, *ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", help=f"of {', '.join(names)}")
    parser.add_argument("--workers", type=int, nargs="+", help="worker processes (default: what the row states)")
    parser.add_argument("--start", type=float, default=30, help="seconds after the first call at which counting begins")
    parser.add_argument("--seconds", type=float, default=90, help="seconds that are counted")
    parser.add_argument("--parallel", type=int, default=4 * (os.cpu_count() or 1), help="eighths of a processor in use")
    parser.add_argument("--json", type=Path, help="writes the figures to this file, too")
    options = parser.parse_args()
    named = [name for one in options.rows or DEFAULT_ROWS for name in GROUPS.get(one, [one])]
    runs = [(name, workers) for name in dict.fromkeys(named) for workers in options.workers or ROWS[name].workers]
    bench = Bench(options.start, options.seconds, options.parallel)
    print(f"from second {options.start:g} to {options.start + options.seconds:g}, {len(runs)} runs")
    print(HEAD, flush=True)
    found: list[Figures] = []
    with ThreadPoolExecutor(len(runs)) as pool:
        for figures in pool.map(lambda run: bench.run(*run), runs):
            found.append(figures)
            print(line(figures), flush=True)
    good = sum(one.verdict == "ok" for one in found)
    print(f"{good} of {len(found)} reach what is asked")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


HEAD = (
    f"{'row':<20} {'workers':>7} {'share':>7} {'429':>7} {'probing':>7} {'early':>7} {'calls':>6} {'busy':>5}  verdict"
)


def line(one: Figures) -> str:
    refused, probing = one.refused / max(1, one.calls), one.probing / max(1, one.calls)
    first = (
        f"{one.row:<20} {one.workers:>7} {one.possible:>7.1%} {refused:>7.2%} {probing:>7.2%} {one.early:>7.1%}"
        f" {one.calls:>6} {one.busy:>5.0%}  {one.verdict}"
    )
    more = [one.unit]
    if abs(one.possible - one.share) > 0.001:
        more.append(f"{one.share:.1%} of the limit")
    if len(one.by_model) > 1:
        more.append(", ".join(f"{model} {share:.1%}" for model, share in one.by_model.items()))
    if len(one.by_key) > 1:
        more.append(f"{min(one.by_key)} to {max(one.by_key)} calls a key")
    return f"{first}  ({'; '.join(more)}): {one.what}"


class Turnstile:
    """Lets runs in, first come, first served, while the sum of their costs is at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._queue: list[object] = []
        self._changed = threading.Condition()

    def enter(self, cost: int) -> None:
        me = object()
        with self._changed:
            self._queue.append(me)
            while self._queue[0] is not me or (self._used and self._used + cost > self._most):
                self._changed.wait()
            self._queue.pop(0)
            self._used += cost
            self._changed.notify_all()

    def leave(self, cost: int) -> None:
        with self._changed:
            self._used -= cost
            self._changed.notify_all()


class Bench:
    """Runs rows; those at the same time begin one after the other, so that none disturbs another's first seconds much."""

    def __init__(self, start: float, seconds: float, parallel: int) -> None:
        self._start, self._seconds = start, seconds
        self._turnstile = Turnstile(parallel)
        self._one_begins = threading.Lock()

    def run(self, name: str, workers: int) -> Figures:
        row = ROWS[name]
        sides = ["learn", "fixed"] if row.kind == "unlimited" else ["learn"]
        cost = len(sides) * (1 + int(row.rate(workers) // CALLS_A_UNIT))
        self._turnstile.enter(cost)
        try:
            with tempfile.TemporaryDirectory() as folder:
                return self._measure(Path(folder), name, workers, sides)
        finally:
            self._turnstile.leave(cost)

    def _measure(self, folder: Path, name: str, workers: int, sides: Sequence[str]) -> Figures:
        row = ROWS[name]
        stacks = [Stack(folder / side, row, workers, side, self._start + self._seconds) for side in sides]
        try:
            with self._one_begins:
                for stack in stacks:
                    stack.begin()
            begin = max(stack.first for stack in stacks) + self._start
            time.sleep(max(0.0, begin - time.time()))
            before, at_first = psutil.cpu_times(), stacks[0].processor_seconds()
            time.sleep(max(0.0, begin + self._seconds - time.time()))
            after, at_last = psutil.cpu_times(), stacks[0].processor_seconds()
            spent = Spent(busy_share(before, after), at_last[0] - at_first[0], at_last[1] - at_first[1])
            logs = [stack.log() for stack in stacks]
            window = (begin, begin + self._seconds)
            if len(stacks) > 1:
                return compared(name, workers, logs, window, spent)
            return figures(name, workers, logs[0], stacks[0].first, window, spent)
        finally:
            for stack in stacks:
                stack.end()


class Stack:
    """One sandbox, and a batch with workers that sends to it."""

    def __init__(self, folder: Path, row: Row, workers: int, limits: str, seconds: float) -> None:
        self.first = 0.0
        self._folder, self._row, self._workers, self._limits, self._seconds = folder, row, workers, limits, seconds
        self._sandbox: subprocess.Popen[str] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._url = ""
        folder.mkdir()

    def begin(self) -> None:
        """Starts everything; returns when the first call has arrived."""
        folder, row = self._folder, self._row
        secrets = [secret(row, number) for number in range(row.keys)]
        accounts = [{"provider": row.provider, "key": one, **row.enforced} for one in secrets]
        server = {"accounts": accounts, "output_tokens": OUTPUT_TOKENS, "latency": row.latency, **row.sandbox}
        settings = folder / "sandbox.yaml"
        settings.write_text(yaml.safe_dump(server))
        self._sandbox = subprocess.Popen(
            [*TRUCKLLM, "sandbox", "--port", "0", "--settings", str(settings)], stdout=subprocess.PIPE, text=True
        )
        assert self._sandbox.stdout is not None
        self._url = self._sandbox.stdout.readline().split()[2]
        config = folder / "truckllm.yaml"
        config.write_text(yaml.safe_dump(configuration(row, self._workers, self._url, secrets, self._limits)))
        prompts = folder / "prompts.jsonl"
        write_prompts(prompts, row, row.rate(self._workers), self._seconds)
        environment = {**os.environ, "TRUCKLLM_HOME": str(folder / "home"), "TRUCKLLM_CONFIG": str(config)}
        submit = [*TRUCKLLM, "submit", str(prompts)]
        subprocess.run(submit, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with (folder / "worker.log").open("wb") as log:
            self._worker = subprocess.Popen(
                [*TRUCKLLM, "worker", "--processes", str(self._workers)], env=environment, stdout=log, stderr=log
            )
        while not (calls := self.log()):
            if self._worker.poll() is not None:
                raise SystemExit(f"the worker ended: {(folder / 'worker.log').read_text()[-2000:]}")
            time.sleep(0.1)
        self.first = float(calls[0]["at"])

    def log(self) -> list[Call]:
        with urllib.request.urlopen(f"{self._url}/_sandbox/log") as reply:
            return [json.loads(one) for one in reply.read().splitlines()]

    def processor_seconds(self) -> tuple[float, float]:
        """The processor seconds so far of the sandbox, and of the workers with their Redis."""
        assert self._sandbox is not None
        assert self._worker is not None
        root = psutil.Process(self._worker.pid)
        sums = []
        for processes in ([psutil.Process(self._sandbox.pid)], [root, *root.children(recursive=True)]):
            total = 0.0
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    total += sum(process.cpu_times()[:2])
            sums.append(total)
        return sums[0], sums[1]

    def end(self) -> None:
        """Ends everything. The sandbox goes first: nobody waits for calls of a minute."""
        for process in (self._sandbox, self._worker):
            if process is not None:
                process.terminate()
        for process in (self._worker, self._sandbox):
            if process is not None:
                process.wait(90)


def secret(row: Row, number: int) -> str:
    return f"{row.provider}-secret-{number}"


def configuration(row: Row, workers: int, url: str, secrets: Sequence[str], limits: str) -> dict[str, Any]:
    keys = [{"id": f"k{n}", "secret": one, **row.configured} for n, one in enumerate(secrets)]
    block = {"id": row.provider, "base_url": f"{url}/{row.provider}/v1", "keys": keys, "limits": limits}
    return {"providers": [block], "worker": {"concurrency": row.concurrency_of(workers)}}


def write_prompts(path: Path, row: Row, rate: float, seconds: float) -> None:
    """More work than can be done in the time, of all sizes, in a mixed order."""
    rng = random.Random(1)
    low, high = row.prompt_tokens
    with path.open("w") as file:
        for number in range(int(rate * 1.5 * (seconds + 60)) + 500 * len(row.models)):
            tokens = rng.uniform(low, high) if row.spread == "even" else low * (high / low) ** rng.random()
            prompt = f"{number} " + "word " * max(1, int((tokens - 6) * 0.8))
            model = row.models[number % len(row.models)]
            one = {"provider": row.provider, "model": model, "prompt": prompt, "max_tokens": row.max_tokens}
            file.write(json.dumps(one) + "\n")


def busy_share(before: Any, after: Any) -> float:
    """The share of the machine's processors that was in use."""
    total = sum(after) - sum(before)
    idle = (after.idle - before.idle) + (getattr(after, "iowait", 0.0) - getattr(before, "iowait", 0.0))
    return 1 - idle / total if total > 0 else 0.0


def within(calls: Sequence[Call], window: tuple[float, float]) -> list[Call]:
    return [call for call in calls if window[0] <= call["at"] < window[1]]


def figures(
    name: str, workers: int, calls: list[Call], first: float, window: tuple[float, float], spent: Spent
) -> Figures:
    row = ROWS[name]
    mine = within(calls, window)
    refused = sum(call["limited"] for call in mine)
    quiet = first_quiet(calls, first)
    probing = sum(call["limited"] and call["at"] >= quiet for call in mine)
    apart = row.models if "models" in row.enforced else ("",)
    shares = {model: share_of(row, model, calls, window) for model in apart}
    worst = min(shares, key=lambda model: shares[model][2])
    unit, share, possible = shares[worst]
    early_window = (first + EARLY[0], first + EARLY[1])
    early = min(share_of(row, model, calls, early_window)[1] for model in apart)
    by_key = [
        sum(call["key_id"] == key_name(secret(row, number)) and not call["limited"] for call in mine)
        for number in range(row.keys)
    ]
    return Figures(
        row=name,
        workers=workers,
        what=row.what,
        unit=unit,
        share=share,
        possible=possible,
        calls=len(mine),
        refused=refused,
        probing=probing,
        early=early,
        by_model={model: its[2] for model, its in shares.items()},
        by_key=by_key,
        busy=spent.busy,
        sandbox_ms=1000 * spent.sandbox / max(1, len(mine)),
        worker_ms=1000 * spent.worker / max(1, len(mine)),
        verdict=verdict(
            row,
            max(len(mine), row.rate(workers) * (window[1] - window[0])),
            len(mine),
            refused,
            probing,
            possible,
            early,
        ),
    )


def compared(name: str, workers: int, logs: Sequence[list[Call]], window: tuple[float, float], spent: Spent) -> Figures:
    """The figures of a server without limits: what is answered with `learn`, of what is answered with `fixed`."""
    row = ROWS[name]
    learn, fixed = (within(calls, window) for calls in logs)
    share = len(learn) / max(1, len(fixed))
    refused = sum(call["limited"] for call in learn)
    return Figures(
        row=name,
        workers=workers,
        what=row.what,
        unit="calls beside fixed",
        share=share,
        possible=share,
        calls=len(learn),
        refused=refused,
        probing=0,
        early=1.0,
        by_model={},
        by_key=[],
        busy=spent.busy,
        sandbox_ms=1000 * spent.sandbox / max(1, len(learn)),
        worker_ms=1000 * spent.worker / max(1, len(learn)),
        verdict=verdict(row, max(len(learn), len(fixed)), len(learn), refused, 0, share, 1.0),
    )


def verdict(row: Row, expected: float, calls: int, refused: int, probing: int, share: float, early: float) -> str:
    """Returns "ok", or what is missed. `expected` are the calls that the server could have taken."""
    if expected < FEWEST_CALLS:
        return "ok" if refused <= 1 else f"{refused} refused of few"
    right, calls = row.kind == "right", max(1, calls)
    missed = [
        *(["share"] if share < (0.98 if right else 0.95) else []),
        *(["429s"] if refused / calls > (0.001 if right else 0.005) else []),
        *(["probing"] if probing > max(1, 0.002 * calls) else []),
        *(["early"] if right and early < 0.95 else []),
    ]
    return ", ".join(missed) or "ok"


def first_quiet(calls: Sequence[Call], first: float) -> float:
    """The end of the first 10 s without a 429: from then on a 429 is that of a probe."""
    quiet = first
    for call in calls:
        if call["limited"]:
            if call["at"] >= quiet + QUIET_SECONDS:
                break
            quiet = call["at"]
    return quiet + QUIET_SECONDS


def share_of(row: Row, model: str, calls: Sequence[Call], window: tuple[float, float]) -> tuple[str, float, float]:
    """The unit that is used most, its share of the real limit in the window, and that of what could still be taken in it."""
    begin, end = window
    seconds, enforced = end - begin, row.limits_of(model)
    scale = enforced.get("enforced", 1.0)
    taken = [call for call in calls if not call["limited"] and model in ("", call["model"])]
    good = within(taken, window)
    found: list[tuple[str, float, float]] = []
    for unit, field, amount in (("requests", "rpm", request), ("tokens", "tpm", charged)):
        if field in enforced:
            whole = row.keys * enforced[field] * scale * seconds / 60
            used = sum(amount(row, call) for call in good)
            left = sum(possible(row, enforced[field] * scale, key, taken, window, amount) for key in keys_of(row))
            found.append((unit, used / whole, used / min(whole, left)))
    if concurrent := enforced.get("concurrent"):
        share = busy_seconds(taken, begin, end) / (row.keys * concurrent * scale * seconds)
        found.append(("calls at once", share, share))
    if row.at_once is not None:
        answered = [call for call in taken if begin <= (call["finished_at"] or end) < end and call["status"] == 200]
        share = len(answered) * row.latency / (row.at_once * seconds)
        found.append(("possible answers", share, share))
    return max(found, key=lambda one: one[2])


def keys_of(row: Row) -> Iterator[str]:
    return (key_name(secret(row, number)) for number in range(row.keys))


def possible(
    row: Row, limit: float, key: str, taken: Sequence[Call], window: tuple[float, float], amount: Any
) -> float:
    """Returns what a key's whole minutes leave to take from the window's begin on, all at once."""
    kind = row.enforced.get("window", "bucket")
    if kind == "bucket" or not taken:
        return float("inf")
    offset = taken[0]["mono"] - taken[0]["at"]
    minute = FixedMinute(int(limit), taken[0]["mono"]) if kind == "fixed" else SlidingMinute(int(limit))
    for call in taken:
        if call["key_id"] == key and call["at"] < window[0]:
            minute.take(amount(row, call), call["mono"])
    total, at, end = 0.0, window[0] + offset, window[1] + offset
    while at < end:
        left = max(0.0, minute.level(at))
        minute.take(left, at)
        total, at = total + left, at + 0.25
    return max(total, 1.0)


def request(row: Row, call: Call) -> float:
    return 1.0


def charged(row: Row, call: Call) -> float:
    """The tokens that the server took from the key's limit for an admitted call."""
    output = int(call["output_tokens"])
    if row.enforced.get("counts") == "usage":
        output = int(output * row.enforced.get("count_factor", 1.0))
    elif row.provider != "claude" or "counts" in row.enforced:
        output = 0
    return float(int(call["booked_tokens"]) + output)


def busy_seconds(calls: Sequence[Call], begin: float, end: float) -> float:
    """The seconds between `begin` and `end` that calls were in flight, in sum."""
    return sum(max(0.0, min(call["finished_at"] or end, end) - max(call["at"], begin)) for call in calls)


if __name__ == "__main__":
    main()
