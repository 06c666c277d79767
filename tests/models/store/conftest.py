"""Both databases, with our schema and empty, faster than making them anew for each test: emptied on PostgreSQL, copied on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.database import Database, check_schema, upgrade
from models.tables import metadata


@pytest.fixture(scope="session")
def postgres_store(postgres_server: str) -> Iterator[Database]:
    """One PostgreSQL database for all tests of the store."""
    name = "store_tests"
    server = sa.create_engine(
        postgres_server.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    server.dispose()
    database = Database(postgres_server.replace("/postgres?", f"/{name}?"))
    upgrade(database)
    check_schema(database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite database to be copied."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Both databases in turn, empty."""
    if request.param == "postgres":
        shared: Database = request.getfixturevalue("postgres_store")
        names = ", ".join(table.name for table in metadata.sorted_tables)
        with shared.write() as connection:
            connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
        yield shared
        return
    path = tmp_path / "truckllm.db"
    shutil.copy(request.getfixturevalue("sqlite_store"), path)
    own = Database(f"sqlite:///{path}")
    yield own
    own.close()
