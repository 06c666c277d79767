"""`truckllm db upgrade`: brings the database's schema up to date. It never runs by itself on PostgreSQL."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from models.database import SCHEMA, open_database, schema_version, storage_errors, upgrade
from submit.cli.options import ConfigOption, database_url, found_config
from submit.cli.output import note


class Action(StrEnum):
    """What can be done to a database."""

    UPGRADE = "upgrade"


def db(
    action: Annotated[Action, typer.Argument(metavar="upgrade", help="What to do.")], config: ConfigOption = None
) -> None:
    """Bring the database up to date: `truckllm db upgrade`. Safe to run several times, and from several machines at once."""
    database = open_database(database_url(found_config(config)), check=False)
    try:
        with storage_errors(database):
            before = schema_version(database)
            upgrade(database)
        note(f"{database.shown}: schema {SCHEMA}" + (", as before" if before == SCHEMA else ""))
    finally:
        database.close()
