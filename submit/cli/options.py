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
from models.database import Database, open_database, storage_errors, stored_file
from models.errors import UsageError
from models.formats.results import Form
from models.money import parse_amount

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The configuration; else $TRUCKLLM_CONFIG, else ./truckllm.yaml.", metavar="FILE"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
InputArgument = Annotated[
    str,
    typer.Argument(
        help="JSONL, one request a line, or CSV or Parquet with --template; may be .gz or .zst; - is stdin.",
        metavar="FILE",
    ),
]
ModelOption = Annotated[
    str | None, typer.Option(help="Ask for this model instead of every line's own.", metavar="MODEL")
]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Take only so many lines.", metavar="N")]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        help="What to ask of each row of a CSV or Parquet file: 'Translate: {text}', with columns in braces.",
        metavar="TEXT",
    ),
]
SystemOption = Annotated[
    str | None, typer.Option(help="System message for simple lines that have none.", metavar="TEXT")
]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="For simple lines that say none.", metavar="N")]
TemperatureOption = Annotated[float | None, typer.Option(min=0.0, help="For simple lines that say none.", metavar="X")]
SchemaOption = Annotated[
    Path | None,
    typer.Option(
        help="A JSON schema that answers to simple lines must fit; else a line's response_format.", metavar="FILE"
    ),
]
SkipInvalidOption = Annotated[
    bool, typer.Option("--skip-invalid", help="Let bad lines be failed jobs instead of refusing the file.")
]
FormatOption = Annotated[
    Form,
    typer.Option("--format", help="How the results are written; jsonl is each line in the form that it came in."),
]
MaxCostOption = Annotated[
    str | None,
    typer.Option(help="Pause before the batch costs more than this; goes on by `resume --max-cost`.", metavar="AMOUNT"),
]
CurrencyOption = Annotated[str, typer.Option(help="Currency of --max-cost.", metavar="CODE")]
BatchArgument = Annotated[int, typer.Argument(help="The batch's number.", metavar="BATCH")]


def cap(max_cost: str | None, currency: str) -> tuple[int, str] | None:
    """What `--max-cost` and `--currency` say, as nano-units and currency. Raises UsageError."""
    if max_cost is None:
        return None
    try:
        nanos, code = parse_amount(max_cost, currency.upper())
    except UsageError as error:
        raise UsageError(f"--max-cost: {error}") from None
    if nanos <= 0:
        raise UsageError(f"--max-cost is {max_cost}: it must be more than 0")
    return nanos, code


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
    if url is None and not make and not stored_file().exists():
        url = "sqlite://"
    database = open_database(url)
    try:
        with storage_errors(database):
            yield database
    finally:
        database.close()
