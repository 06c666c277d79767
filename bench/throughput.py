"""How many jobs a second the whole of TruckLLM does on this machine, beside a bare loop of its own HTTP client.

Both send the same requests to the same sandbox (50 ms a reply, no limits), one after the other in one run, so that the ratio
means something on a noisy machine. It is no test: nothing here fails because a machine is slow.

    python bench/throughput.py [--jobs 10000] [--latency 0.05] [--concurrency 256]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from worker.http import HttpSender
from worker.providers.base import Call

TRUCKLLM = [sys.executable, "-P", "-m", "truckllm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds a reply takes")
    parser.add_argument("--concurrency", type=int, default=256, help="calls in flight")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = subprocess.Popen(
            [*TRUCKLLM, "sandbox", "--port", "0", "--latency", str(options.latency)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert sandbox.stdout is not None
            url = sandbox.stdout.readline().split()[2]
            measure(Path(folder), url, options)
        finally:
            sandbox.terminate()
            sandbox.wait()


def measure(folder: Path, url: str, options: argparse.Namespace) -> None:
    config = folder / "truckllm.yaml"
    key = {"id": "k1", "secret": "none", "pricing": {"input_token_cost": "0.002", "output_token_cost": "0.01"}}
    provider = {"id": "openai", "base_url": f"{url}/openai/v1", "keys": [key]}
    config.write_text(yaml.safe_dump({"providers": [provider], "worker": {"concurrency": options.concurrency}}))
    prompts = folder / "prompts.jsonl"
    with prompts.open("w") as file:
        for number in range(options.jobs):
            file.write(
                json.dumps({"id": f"row-{number}", "model": "gpt-bench", "prompt": f"Say the number {number}."}) + "\n"
            )
    print(
        f"{options.jobs} jobs, {options.latency * 1000:.0f} ms a reply, {options.concurrency} in flight, {os.cpu_count()} cores"
    )
    whole, seconds, memory, busy = run(folder, config, prompts)
    ours = options.jobs / seconds
    print(
        f"truckllm run   submit to last durable result  {seconds:6.2f} s  {ours:7.0f} jobs/s   (whole command {whole:.2f} s)"
    )
    for name, size in sorted(memory.items()):
        spent = busy[name] / options.jobs * 1000
        print(f"               {name:<22} most memory {size / 1e6:4.0f} MB   processor {spent:6.3f} s a 1,000 jobs")
    took = asyncio.run(bare(url, options.jobs, options.concurrency))
    print(f"bare loop      the same client, nothing kept  {took:6.2f} s  {options.jobs / took:7.0f} calls/s")
    print(f"ratio          {took / seconds:.2f} of the bare loop")


async def bare(url: str, calls: int, concurrency: int) -> float:
    """Seconds that the client alone takes for as many calls, with as many in flight."""
    numbers = iter(range(calls))

    async with HttpSender() as sender:

        async def caller() -> None:
            for number in numbers:
                body = {"model": "gpt-bench", "messages": [{"role": "user", "content": f"Say the number {number}."}]}
                headers = {"authorization": "Bearer none", "content-type": "application/json"}
                call = Call("POST", f"{url}/openai/v1/chat/completions", headers, json.dumps(body).encode())
                reply = await sender.send(call)
                assert reply.status == 200, reply

        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        return time.perf_counter() - started


def run(folder: Path, config: Path, prompts: Path) -> tuple[float, float, dict[str, int], dict[str, float]]:
    """Seconds of the whole command, seconds from submit to the last durable result; most memory and processor seconds, start
    included, by process. On a machine that others use, too, the last ones tell more than the rate."""
    home = folder / "home"
    started = time.perf_counter()
    command = subprocess.Popen(
        [*TRUCKLLM, "run", str(prompts), "-c", str(config), "--json"],
        env={**os.environ, "TRUCKLLM_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory: dict[str, int] = {}
    busy: dict[str, float] = {}
    root = psutil.Process(command.pid)
    while command.poll() is None:
        try:
            for process in (root, *root.children(recursive=True)):
                words = process.cmdline()
                name = next((w for w in words if w in ("run", "worker")), Path(words[0]).name if words else "")
                memory[name] = max(memory.get(name, 0), process.memory_info().rss)
                busy[name] = max(busy.get(name, 0.0), sum(process.cpu_times()[:2]))
        except (psutil.Error, IndexError):
            pass
        time.sleep(0.1)
    whole = time.perf_counter() - started
    with sqlite3.connect(home / "truckllm.db") as database:
        created, finished, status = database.execute("SELECT created_at, finished_at, status FROM batches").fetchone()
        answered = database.execute("SELECT count(*) FROM results").fetchone()[0]
    if status != "completed":
        raise SystemExit(f"the batch is {status}, with {answered} results")
    return whole, finished - created, memory, busy


if __name__ == "__main__":
    main()
