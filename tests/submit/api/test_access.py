"""Who may do what over HTTP, and what is said to those who may not."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from models.database import Database
from models.errors import StorageError, UsageError
from submit.api.access import READ_TOKEN_VARIABLE, TOKEN_FILE, TOKEN_VARIABLE, May, found_access
from submit.api.app import application
from submit.api.asked import Api
from tests.submit.api.conftest import READ_TOKEN, TOKEN


def test_without_a_token_only_health_answers(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert client.get("/healthz").json() == {"status": "ok"}
    for path in ("/metrics", "/v1/batches", "/v1/keys", "/v1/costs", "/nowhere"):
        refused = client.get(path)
        assert refused.status_code == 401, path
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert client.post("/v1/batches", content=b"{}").status_code == 401


def test_health_shows_a_stranger_nothing_of_what_is_wrong(
    client: TestClient, database: Database, tmp_path: Path
) -> None:
    del client.headers["Authorization"]
    database.close()
    (tmp_path / "truckllm.db").write_bytes(b"rubbish" * 1000)
    away = client.get("/healthz")
    assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
    assert away.json()["error"] == {"code": "storage_unavailable", "message": "the database can't be reached"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff"]
)
def test_a_wrong_token_is_no_token(client: TestClient, header: str) -> None:
    assert client.get("/v1/batches", headers={"Authorization": header.encode("latin-1")}).status_code == 401


def test_a_read_token_reads_and_changes_nothing(client: TestClient) -> None:
    client.headers["Authorization"] = f"Bearer {READ_TOKEN}"
    for path in ("/metrics", "/v1/batches", "/v1/keys", "/v1/costs", "/v1/workers", "/v1/providers"):
        assert client.get(path).status_code == 200, path
    for method, path in (
        ("POST", "/v1/batches"),
        ("POST", "/v1/batches/1/cancel"),
        ("POST", "/v1/keys/openai/oa-1/disable"),
        ("DELETE", "/v1/batches/1"),
    ):
        assert client.request(method, path).status_code == 403, path
    assert all(key["state"] == "active" for key in client.get("/v1/keys").json()["keys"])


def test_every_path_but_health_is_guarded(client: TestClient, api: Api) -> None:
    from submit.api.access import Access

    paths = [(route.path, sorted(route.methods or ())) for route in application(api, Access(TOKEN)).routes]  # type: ignore[attr-defined]
    assert len(paths) > 15
    del client.headers["Authorization"]
    for path, methods in paths:
        for method in methods:
            if path != "/healthz":
                assert client.request(method, path).status_code == 401, (method, path)


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv(READ_TOKEN_VARIABLE, raising=False)
    made = found_access()
    file = tmp_path / "home" / TOKEN_FILE
    assert made.made_in == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(made.token) >= 40
    assert found_access() == made
    assert made.of(f"Bearer {made.token}") is May.ALL
    assert made.token not in repr(made)
    file.write_text("")
    with pytest.raises(StorageError, match="holds no token"):
        found_access()


@pytest.mark.parametrize("token", ["short", "with a space in it", "ümlaut-ümlaut-ümlaut"])
def test_a_poor_token_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(UsageError, match=TOKEN_VARIABLE) as refused:
        found_access()
    assert token not in str(refused.value)


def test_a_read_token_must_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.setenv(READ_TOKEN_VARIABLE, TOKEN)
    with pytest.raises(UsageError, match="same"):
        found_access()
