"""Completion in the shell, asked as the shells' own scripts do; and the first minute without a configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import truckllm


def completed(folder: Path, line: str) -> set[str]:
    environment = {
        **os.environ,
        "_TRUCKLLM_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    run = subprocess.run(
        [sys.executable, "-P", "-m", "truckllm"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stderr == ""
    return set(run.stdout.split())


def test_commands_are_completed(tmp_path: Path) -> None:
    assert completed(tmp_path, "truckllm ") >= set(truckllm._COMMANDS)
    assert completed(tmp_path, "truckllm pri") == {"priority"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("truckllm run --mod", {"--model"}),
        ("truckllm rerun --st", {"--status"}),
        ("truckllm rerun 1 --status ", {"failed", "cancelled", "succeeded"}),
        ("truckllm keys dis", {"disable"}),
        ("truckllm worker --proc", {"--processes"}),
    ],
)
def test_options_values_and_commands_below_are_completed(tmp_path: Path, line: str, wanted: set[str]) -> None:
    assert completed(tmp_path, line) == wanted


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell_can_be_had(tmp_path: Path, shell: str) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run = subprocess.run(
        [sys.executable, "-P", "-m", "truckllm", "--show-completion", shell],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "_TRUCKLLM_COMPLETE" in run.stdout


def test_a_key_in_the_environment_is_enough_to_submit(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "in.jsonl").write_text('{"model": "gpt-4o", "prompt": "hi"}\n')
    run = subprocess.run(
        [sys.executable, "-P", "-m", "truckllm", "submit", "in.jsonl"],
        cwd=folder,
        env={**environment, "OPENAI_API_KEY": "sk-canary-0815"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr
    assert "NO LIMITS and NO PRICES" in run.stderr
    assert "canary" not in run.stderr
