"""`truckllm api` as a process: it serves while workers work, over TLS if told to, and ends when told to."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.servers import SandboxProcess, wait_for
from tests.submit.api.conftest import READ_TOKEN, TOKEN

Start = Callable[..., subprocess.Popen[str]]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_batch_goes_in_and_comes_out_over_http(
    sandbox: SandboxProcess, write_config: Callable[..., Path], start: Start, tmp_path: Path
) -> None:
    write_config(sandbox.url)
    tokens = {"TRUCKLLM_API_TOKEN": TOKEN, "TRUCKLLM_API_READ_TOKEN": READ_TOKEN}
    serving = start("api", "--port", 0, **tokens)
    output = tmp_path / "process0.output"
    url = wait_for(lambda: re.search(r"serving (http://127\.0\.0\.1:\d+)\n", output.read_text()), "the API's URL")[1]
    start("worker")
    body = "".join(json.dumps({"id": f"p{n}", "prompt": f"say {n}", "model": "gpt-4o"}) + "\n" for n in range(5))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        one = client.post("/v1/batches", content=body).raise_for_status().headers["Location"]
        wait_for(lambda: client.get(one).json()["status"] == "completed", "the batch to be completed", 60)
        lines = [json.loads(line) for line in client.get(f"{one}/results").text.splitlines()]
        assert [(line["id"], line["status"]) for line in lines] == [(f"p{n}", "succeeded") for n in range(5)]
        metrics = client.get("/metrics", headers={"Authorization": f"Bearer {READ_TOKEN}"}).text
        assert re.search(r'truckllm_calls_total\{.*outcome="succeeded".*\} 5\.0', metrics)
        assert client.get("/v1/providers").json()["providers"][0]["calls"] == 5
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(60) == 0
    assert TOKEN not in output.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--certificate"),
        (["--certificate", "c.pem"], "go together"),
        (["--host", "256.0.0.1", "--expose"], "can't listen"),
    ],
)
def test_what_would_be_unsafe_or_impossible_is_refused(
    cli: Cli, sandbox_config: Path, options: list[str], said: str
) -> None:
    refused = cli("api", "--port", 0, *options)
    assert refused.returncode == 2
    assert said in refused.stderr


@pytest.fixture
def sandbox_config(write_config: Callable[..., Path]) -> Path:
    return write_config("http://127.0.0.1:1")
