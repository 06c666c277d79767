"""HumanEval's 164 problems over three providers, made by the example and answered from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.servers import SandboxProcess

SCRIPT = Path(__file__).parent.parent.parent / "examples" / "humaneval.py"
MODELS = {"gpt-4o-mini": "openai", "claude-haiku-4-5": "claude", "gemini-3.5-flash": "gemini"}


def made(*models: str) -> str:
    return subprocess.run([sys.executable, SCRIPT, *models], capture_output=True, text=True, check=True).stdout


def test_every_problem_is_answered_by_every_provider_in_order_and_paid_once(
    cli: Callable[..., subprocess.CompletedProcess[str]],
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    write_config(sandbox.url)
    (tmp_path / "humaneval.jsonl").write_text(made(*MODELS))
    done = cli("run", "humaneval.jsonl", seconds=100)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "humaneval.results.jsonl").read_text().splitlines()]
    assert [(row["id"], row["provider"]) for row in rows] == [
        (f"HumanEval/{n} {model}", provider) for n in range(164) for model, provider in MODELS.items()
    ]
    assert all(row["text"] and row["metadata"]["entry_point"] for row in rows)
    assert Counter(call["provider"] for call in sandbox.log()) == dict.fromkeys(MODELS.values(), 164)


def test_with_one_model_the_problems_names_are_the_ids() -> None:
    ids = [json.loads(line)["id"] for line in made("gpt-4o-mini").splitlines()]
    assert ids == [f"HumanEval/{n}" for n in range(164)]


def test_without_a_model_the_script_says_what_to_write() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python examples/humaneval.py gpt-4o-mini" in done.stderr
