"""What tests of submissions share: a configuration that needs no keys, and a way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.config import Config
from models.config_file import load_config_text
from models.database import Database
from models.store import batches, budgets
from submit.producer import Submitted, submit_batch

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: "${NOT_SET_ANYWHERE}", limit_req_per_min: 1, limit_tokens_per_min: 1, pricing: &free {input_token_cost: 0, output_token_cost: 0}}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2, limit_req_per_min: 1, limit_tokens_per_min: 1, pricing: *free}]}
"""


@pytest.fixture
def config() -> Config:
    return load_config_text(CONFIG, secrets=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("TRUCKLLM_HOME", str(path))
    return path


@pytest.fixture
def put(config: Config, home: Path, database: Database) -> Callable[..., Submitted]:
    def put(source: Any, **options: Any) -> Submitted:
        return submit_batch(source, config=config, database=database, **options)

    return put


def prompts(number: int, model: str = "gpt-4o") -> list[dict[str, Any]]:
    return [{"prompt": f"say {n}", "model": model} for n in range(number)]


def cap(database: Database, batch_id: int) -> int | None:
    with database.read() as connection:
        found = budgets.get(connection, batch_id)
    return None if found is None else int(found["most_nanos"])


def status(database: Database, batch_id: int) -> str:
    with database.read() as connection:
        return str(batches.get(connection, batch_id)["status"])
