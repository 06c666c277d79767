"""`truckllm sandbox` as a process: it says where it is, serves, and ends when told."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from models.config_file import load_config_text
from models.errors import ConfigError
from worker.cli.sandbox import merged
from worker.sandbox.settings import SandboxSettings, load_settings

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command with these arguments; it is killed at the end if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "worker.sandbox", *arguments]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait(60)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    match = re.fullmatch(r"sandbox ready (http://127\.0\.0\.1:\d+)\n", line)
    assert match, line + (process.stderr.read() if process.stderr else "")
    return match[1]


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote after the first line, and its errors, once it has ended."""
    process.wait(60)
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout.read(), process.stderr.read()


def ask(url: str) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(
        f"{url}/openai/v1/chat/completions", json.dumps(body).encode(), {"authorization": "Bearer sk-0000000000000"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(answer.status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_serves_and_ends_cleanly_at_a_signal(start: Start, tmp_path: Path, number: int) -> None:
    log, ready_file = tmp_path / "log.jsonl", tmp_path / "ready"
    process = start("--port", "0", "--rpm", "600", "--log", str(log), "--ready-file", str(ready_file))
    url = ready(process)
    assert ask(url) == 200
    assert ready_file.read_text().strip() == url
    process.send_signal(number)
    out, err = ended(process)
    assert (process.returncode, err) == (0, "")
    assert len(log.read_text().splitlines()) == 1
    block = yaml.safe_load(out[out.index("providers:") :])
    assert [provider["id"] for provider in block["providers"]] == ["openai", "gemini", "claude"]
    assert [provider["base_url"] for provider in block["providers"]] == [
        f"{url}/openai/v1",
        f"{url}/gemini/v1",
        f"{url}/claude/v1",
    ]
    assert block["providers"][0]["keys"][0]["limit_req_per_min"] == 600
    config = load_config_text(out[out.index("providers:") :])
    assert [provider.keys[0].limit_req_per_min for provider in config.providers] == [600, 600, 600]


def test_it_ends_with_its_standard_input_if_told_so(start: Start) -> None:
    process = start("--port", "0", "--until-stdin-closes")
    ready(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0


def test_the_yaml_block_names_variables_instead_of_the_keys_of_accounts(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    accounts = [
        {"provider": "claude", "key": "sk-canary-1", "pool": "org", "rpm": 50},
        {"provider": "claude", "key": "sk-canary-2", "pool": "org"},
    ]
    file.write_text(yaml.safe_dump({"accounts": accounts, "port": 0}))
    process = start("--settings", str(file))
    ready(process)
    process.terminate()
    out, err = ended(process)
    assert "canary" not in out + err
    (claude,) = yaml.safe_load(out[out.index("providers:") :])["providers"]
    assert [key["secret"] for key in claude["keys"]] == ["${SANDBOX_CLAUDE_KEY_1}", "${SANDBOX_CLAUDE_KEY_2}"]
    assert [(key["pool"], key["limit_req_per_min"]) for key in claude["keys"]] == [("org", 50)] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "expose"),
        (["--latency", "-1"], "latency"),
        (["--settings", "{folder}/none.yaml"], "none.yaml"),
        (["--settings", "{folder}/bad.yaml"], "accounts.0.rpm"),
    ],
)
def test_a_wrong_setting_ends_it_with_2_and_the_reason(
    start: Start, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "bad.yaml").write_text('accounts: [{provider: openai, key: sk-canary, rpm: "many"}]')
    process = start(*[argument.format(folder=tmp_path) for argument in arguments])
    _, err = ended(process)
    assert process.returncode == 2
    assert words in err
    assert "canary" not in err
    assert "Traceback" not in err


def test_a_taken_port_ends_it_with_2(start: Start) -> None:
    port = ready(start("--port", "0")).rpartition(":")[2]
    other = start("--port", port)
    _, err = ended(other)
    assert other.returncode == 2
    assert f"127.0.0.1:{port}" in err
    assert "Traceback" not in err


def test_other_hosts_need_the_flag() -> None:
    with pytest.raises(ConfigError, match="expose"):
        merged(SandboxSettings(), {"host": "::"}, None, None)
    assert merged(SandboxSettings(), {"host": "0.0.0.0", "expose": True}, None, None).host == "0.0.0.0"
    assert merged(SandboxSettings(), {"host": "::1"}, None, None).port == 8400


def test_limits_by_option_do_not_mix_with_accounts() -> None:
    accounts = SandboxSettings.model_validate({"accounts": [{"provider": "openai", "key": "k"}]})
    with pytest.raises(ConfigError, match="--rpm"):
        merged(accounts, {}, 5, None)


def test_keys_are_in_no_representation_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("accounts: [{provider: openai, key: sk-canary}]\nfaults: [{kind: hang, key: sk-canary}]\n")
    os.chmod(file, 0o600)
    settings = load_settings(file)
    assert settings.accounts[0].key == "sk-canary"
    assert "canary" not in repr(settings) + str(settings)
