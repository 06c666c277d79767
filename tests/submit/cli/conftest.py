"""A configuration, a file of prompts, and commands run in this process, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.database import Database, open_database
from tests.submit.cli.reading import Cli

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: "${OPENAI_CANARY}", limit_req_per_min: 9, limit_tokens_per_min: 9, pricing: &free {input_token_cost: 0, output_token_cost: 0}}]}
  - {id: claude, keys: [{id: cl-1, pool: team, secret: "sk-canary-5b1c", limit_req_per_min: 9, limit_tokens_per_min: 9, pricing: *free}]}
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path) -> Path:
    path = tmp_path / "truckllm.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def command(quick_cli: Cli) -> Cli:
    """Runs a command like `cli`, but in this process, which is faster."""
    return quick_cli


@pytest.fixture
def stored(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The database that the commands use."""
    monkeypatch.setenv("TRUCKLLM_HOME", environment["TRUCKLLM_HOME"])
    database = open_database()
    yield database
    database.close()


@pytest.fixture
def prompts(write_lines: Callable[..., Path]) -> Path:
    return write_lines([{"id": f"p{n}", "prompt": f"say {n}", "model": "gpt-4o"} for n in range(4)])
