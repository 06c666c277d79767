"""What commands have in common: the options that each takes, and the configuration and database that they name.

It does not print; `submit.cli.output` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from models.config import Config
from models.config_file import FILE_NAMES, STORAGE_VARIABLES, load_config
from models.database import Database, home_path, nothing_stored, open_database, stored_file
from models.errors import NotFoundError, UsageError
from models.formats.form import Form
from models.money import parse_cap
from submit.damages import told_errors

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The configuration; else $TRUCKLLM_CONFIG, else ./truckllm.yaml.", metavar="FILE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
FormatOption = Annotated[
    Form,
    typer.Option("--format", help="How the results are written; jsonl is each line in the form that it came in."),
]
MaxCostOption = Annotated[
    str | None,
    typer.Option(help="Pause before the batch costs more than this; goes on by `resume --max-cost`.", metavar="AMOUNT"),
]
CurrencyOption = Annotated[str, typer.Option(help="Currency of --max-cost.", metavar="CODE")]
NewOption = Annotated[
    bool, typer.Option("--new", help="Make a new batch, and pay for it, even if the same file is done or under way.")
]


def known(batch: int | None) -> int | None:
    """A batch's number as it was given. Raises NotFoundError for one that no database has."""
    if batch is not None and not 0 < batch < 1 << 63:
        raise NotFoundError(f"there is no batch {batch}; `truckllm status` lists them")
    return batch


BatchArgument = Annotated[int, typer.Argument(help="The batch's number.", metavar="BATCH", callback=known)]


def cap(max_cost: str | None, currency: str) -> tuple[int, str] | None:
    """What `--max-cost` and `--currency` say, as nano-units and currency. Raises UsageError."""
    try:
        return parse_cap(max_cost, currency)
    except UsageError as error:
        raise UsageError(f"--max-cost: {error}") from None


def found_config(path: Path | None) -> Config | None:
    """The configuration, None where there is none: what has been stored can be looked at without. Raises ConfigError."""
    named = path or os.environ.get("TRUCKLLM_CONFIG")
    if not named and not any(Path(name).is_file() for name in FILE_NAMES):
        return None
    return load_config(path, secrets=False)


def database_url(config: Config | None) -> str | None:
    """The database that the configuration names, else the variable; None is the one in the state folder."""
    return config.database_url if config else os.environ.get(STORAGE_VARIABLES["database_url"]) or None


@contextmanager
def stored(config: Config | None, *, make: bool = False) -> Iterator[Database]:
    """The database, for as long as the block lasts; an empty one in memory where none is, unless it is to be made.

    So looking leaves nothing behind. Raises StorageError.
    """
    url = database_url(config)
    folder = home_path()
    missing = url is None and not make and not stored_file().exists() and (folder.is_dir() or not folder.exists())
    database = nothing_stored() if missing else open_database(url)
    try:
        with told_errors(database):
            yield database
    finally:
        database.close()
