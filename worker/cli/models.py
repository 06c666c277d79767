"""`truckllm models`: what each provider sells to your keys, asked for free, and which of it you use.

It makes no call but the providers' lists of models; what they said is kept, so that `submit` can warn without asking.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.config import Config, ProviderConfig
from models.config_file import load_config
from models.database import home, open_database, storage_errors
from models.errors import TruckError
from models.model_lists import ModelList, keep, named_models, retirement, warnings
from models.request import ModelInfo
from models.store import outcomes

if TYPE_CHECKING:
    from worker.http import HttpSender


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A provider that gave no list, and why."""

    provider: str
    why: str


def models(
    provider: Annotated[str | None, typer.Argument(help="Only this provider.", metavar="PROVIDER")] = None,
    used: Annotated[
        bool, typer.Option("--used", help="Only models that the configuration or an open batch names.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="The configuration; else $TRUCKLLM_CONFIG, else ./truckllm.yaml."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
) -> None:
    """List the models that each provider offers to your keys, with the day of their shutdown where it tells; costs nothing.

    --json: {"models": [{provider, id, retires_at (the provider's own text or null), used_by ("config", "batch N")}]}. Exit code 2
    when a provider gave no list.
    """
    settings = load_config(config, secrets=True)
    asked = [settings.provider(provider)] if provider else list(settings.providers)
    answers = asyncio.run(_ask(asked))
    lists = [answer for answer in answers if isinstance(answer, ModelList)]
    keep(home(), lists)
    users = _users(settings)
    rows = [
        (one.provider, model, users.get((one.provider, model.id), []))
        for one in lists
        for model in sorted(one.models, key=lambda model: model.id)
    ]
    rows = [row for row in rows if row[2] or not used]
    _print(rows, as_json)
    for sentence in warnings(settings, users, {one.provider: one for one in lists}, datetime.now(UTC)):
        _note(f"warning: {sentence}")
    failed = [answer for answer in answers if isinstance(answer, Unlisted)]
    for answer in failed:
        _note(f"{answer.provider}: {answer.why}")
    raise typer.Exit(2 if failed else 0)


async def _ask(providers: Sequence[ProviderConfig]) -> list[ModelList | Unlisted]:
    from worker.http import HttpSender

    async with HttpSender() as sender:
        return list(await asyncio.gather(*(_ask_one(sender, provider) for provider in providers)))


async def _ask_one(sender: HttpSender, provider: ProviderConfig) -> ModelList | Unlisted:
    """By the first key that is accepted; keys of one provider may see different models, but mostly don't."""
    from worker.providers.base import KEY_KINDS, ProviderRefused, SendError
    from worker.providers.registry import make_provider

    why = ""
    for key in provider.keys:
        try:
            found = await make_provider(provider, sender).list_models(key.secret.reveal())
            return ModelList(provider.id, provider.base_url, time.time(), tuple(found))
        except ProviderRefused as error:
            if error.failure.kind not in KEY_KINDS:
                return Unlisted(provider.id, f"tells no list of models: {error.failure.message}")
            why = f"key {key.id} is refused: {error.failure.message}"
        except SendError as error:
            return Unlisted(provider.id, f"no answer from {provider.base_url}: {error}")
        except TruckError as error:
            return Unlisted(provider.id, str(error))
    return Unlisted(provider.id, why)


def _users(config: Config) -> dict[tuple[str, str], list[str]]:
    """Who uses a (provider, model): "config", and open batches."""
    users = {pair: ["config"] for pair in sorted(named_models(config))}
    database = open_database(config.database_url)
    try:
        with storage_errors(database), database.read() as connection:
            for batch_id, lane, model in outcomes.open_models(connection):
                if lane not in config.routes:
                    users.setdefault((lane, model), []).append(f"batch {batch_id}")
    finally:
        database.close()
    return users


def _print(rows: Sequence[tuple[str, ModelInfo, list[str]]], as_json: bool) -> None:
    if as_json:
        tree: list[dict[str, Any]] = [
            {"provider": provider, "id": model.id, "retires_at": model.retires_at, "used_by": users}
            for provider, model, users in rows
        ]
        sys.stdout.write(json.dumps({"models": tree}, indent=2, ensure_ascii=False) + "\n")
        return
    cells = [("provider", "model", "shut down", "used by")]
    for provider, model, users in rows:
        date = retirement(model)
        cells.append((provider, model.id, str(date.date()) if date else model.retires_at or "", ", ".join(users)))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")
