"""The HTTP API in this process, with a token that may do all and one that may read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from models.config_file import load_config
from models.database import Database, open_database
from submit.api.access import Access
from submit.api.app import application
from submit.api.asked import Api

TOKEN = "all-canary-3f81b07c"
READ_TOKEN = "read-canary-3f81b07c"

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: "sk-canary-5b1c", limit_req_per_min: 9, limit_tokens_per_min: 900}]}
  - {id: claude, keys: [{id: cl-1, pool: team, secret: "sk-canary-5b1d", limit_req_per_min: 9}]}
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """SQLite: what an endpoint calls is tested on both databases, where it belongs."""
    database = open_database(f"sqlite:///{tmp_path}/truckllm.db")
    yield database
    database.close()


@pytest.fixture
def api(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    path = tmp_path / "truckllm.yaml"
    path.write_text(CONFIG)
    return Api(database, load_config(path, secrets=False), 1_000_000)


@pytest.fixture
def client(api: Api) -> Iterator[TestClient]:
    """May do all; gets a 500 instead of the exception, as a caller would."""
    with TestClient(application(api, Access(TOKEN, READ_TOKEN)), raise_server_exceptions=False) as found:
        found.headers["Authorization"] = f"Bearer {TOKEN}"
        yield found
