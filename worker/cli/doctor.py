"""`truckllm doctor`: says what is wrong and what to do about it: configuration, environment, storage, broker, keys, workers.

It changes nothing, and makes no call to a provider unless asked to (`--keys`: the free model list, never a job).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import redis
import typer
from sqlalchemy.engine import RowMapping

from models.config import Config, KeyConfig, ProviderConfig
from models.config_addresses import public_url
from models.config_agreement import NAMED_KEYS
from models.config_file import load_config
from models.database import SCHEMA, Database, home_path, open_database, schema_version, storage_errors
from models.day_limits import DayLimit, day_limits, days_of_work, standing_waits
from models.days import DEFAULT_ZONE
from models.errors import ConfigError, TruckError
from models.learning import Lowered, allows, of_keys, once_a_pool
from models.model_lists import ModelList, keep
from models.permissions import exposed
from models.store import keys as key_store
from models.store import learned
from models.store import workers as worker_store
from models.store.days import queued_by_lane
from models.store.learned import Learned
from models.wording import counted, utc

if TYPE_CHECKING:
    from worker.http import HttpSender

LIVE_SECONDS = 45.0
_PRIVATE = ("truckllm.db", "truckllm.db-wal", "truckllm.db-shm", "worker.log", "stack.json", "api-token")
LOW_DISK_BYTES = 500 * 1024 * 1024
REDIS_SECONDS = 5.0
_GEMINI_ZONE = "America/Los_Angeles"
"""Where requests a day begin again at midnight: Gemini API docs, rate limits."""
SHOWN_LEARNED = 10
"""Models with learned limits that get a line each."""

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `what` was looked at, how it is, and what to do if it isn't well."""

    what: str
    state: State
    message: str
    todo: str = ""


def command(local_stack: Callable[[], str]) -> Callable[..., None]:
    """The command, for a program that can tell what the local stack would run on (raises UsageError when it can't)."""

    def doctor(
        config: Annotated[
            Path | None,
            typer.Option(
                "--config", "-c", metavar="FILE", help="The configuration; else $TRUCKLLM_CONFIG, else ./truckllm.yaml."
            ),
        ] = None,
        keys: Annotated[
            bool,
            typer.Option("--keys", help="Ask each provider whether it takes the keys, by the free list of models."),
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")] = False,
    ) -> None:
        """Check configuration, environment, storage, broker and workers; say what is wrong and what to do.

        It changes nothing and costs nothing. Exit code 0, or 2 when something has to be done. --json: {"ok": bool, "findings":
        [{"what", "state" ("ok", "warning" or "error"), "message", "todo"}]}.
        """
        findings = []
        for finding in _examine(config, keys, local_stack):
            findings.append(finding)
            if not as_json:
                _show(finding)
        ok = all(finding.state != "error" for finding in findings)
        if as_json:
            rows = [{"what": f.what, "state": f.state, "message": f.message, "todo": f.todo} for f in findings]
            sys.stdout.write(json.dumps({"ok": ok, "findings": rows}, indent=2, ensure_ascii=False) + "\n")
        raise typer.Exit(0 if ok else 2)

    return doctor


def _show(finding: Finding) -> None:
    mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[finding.state]
    sys.stdout.write(f"{mark}  {finding.what}: {finding.message}\n")
    if finding.todo:
        sys.stdout.write(f"         → {finding.todo}\n")
    sys.stdout.flush()


def _examine(path: Path | None, keys: bool, local_stack: Callable[[], str]) -> Iterator[Finding]:
    try:
        config = load_config(path, secrets=False)
    except ConfigError as error:
        yield Finding("configuration", "error", str(error), "mend it; all other checks need it")
        return
    number = sum(len(provider.keys) for provider in config.providers)
    yield Finding(
        "configuration",
        "ok",
        f"{config.path or 'keys in the environment'}: {counted(len(config.providers), 'provider')}, {counted(number, 'key')}",
    )
    yield from _of_providers(config)
    yield from _of_environment(path)
    yield from _of_files(config)
    finding, database = _of_database(config)
    yield finding
    yield from _of_broker(config, local_stack)
    if database is not None:
        yield from _of_workers(config, database)
        database.close()
    if keys:
        yield from asyncio.run(_of_keys(config))


def _of_providers(config: Config) -> Iterator[Finding]:
    from worker.providers.registry import provider_class

    for provider in config.providers:
        try:
            provider_class(provider)
        except ConfigError as error:
            told = str(error).removeprefix(f"{provider.place}.")
            yield Finding(f"{provider.place} ({provider.id})", "error", told)
        if provider.type == "gemini" and any(
            one.zone == DEFAULT_ZONE for key in provider.keys for one in day_limits(provider, key)
        ):
            message = f"{provider.id}: its limits by day begin at midnight in UTC, and Gemini's in California"
            yield Finding("limits", "warning", message, f"day_resets: {_GEMINI_ZONE}")
    for warning in config.warnings:
        yield Finding("limits", "warning", warning, "add the limits of your account, or expect 429s")
    for provider in config.providers:
        unpriced = [
            f"{provider.id}/{key.id}"
            for key in provider.keys
            if key.pricing is None
            and not any(model.pricing for model in (*provider.models.values(), *key.models.values()))
        ]
        sentences = [f"{name} has no pricing: its" for name in unpriced]
        if len(unpriced) > NAMED_KEYS:
            sentences = [f"{len(unpriced):,} keys of {provider.id} (the first is {unpriced[0]}) have no pricing: their"]
        for beginning in sentences:
            if config.price_list:
                message = f"{beginning} calls are priced by {config.price_list}, or reported as unpriced"
                yield Finding("prices", "ok", message)
            else:
                way_out = "add pricing, or switch a price list on: price_list: genai-prices"
                yield Finding("prices", "warning", f"{beginning} calls are reported as unpriced", way_out)


def _of_environment(path: Path | None) -> Iterator[Finding]:
    try:
        load_config(path, secrets=True)
    except ConfigError as error:
        yield Finding("environment", "error", str(error), "set the variables where workers and `truckllm run` start")
    else:
        yield Finding("environment", "ok", "every variable that the configuration names is set")


def _of_files(config: Config) -> Iterator[Finding]:
    home = home_path()
    for sentence, mend in exposed(config.path, home):
        yield Finding("permissions", "warning", sentence, mend)
    private = [home] if home.exists() else []
    private += [file for name in _PRIVATE if (file := home / name).exists()]
    if config.path is not None and _holds_secret(config):
        private.append(config.path)
    open_to_others = [file for file in private if stat.S_IMODE(file.stat().st_mode) & 0o077]
    for file in open_to_others:
        yield Finding("files", "warning", f"others can read {file}", f"chmod go= {file}")
    there = home if home.exists() else home.parent
    if not os.access(there, os.W_OK):
        yield Finding("files", "error", f"{there} can't be written", "use another TRUCKLLM_HOME, or change its owner")
        return
    free = shutil.disk_usage(there).free
    if free < LOW_DISK_BYTES:
        yield Finding(
            "files", "warning", f"{there} has {free // 1024**2} MB left", "make room: results and inputs are kept"
        )
    elif not open_to_others:
        new = "" if home.exists() else ", made at the first start"
        yield Finding("files", "ok", f"{home} (state{new}) is private, {free // 1024**3} GB are free")


def _holds_secret(config: Config) -> bool:
    """Whether a key stands in the file itself, not in a variable."""
    if config.path is None:
        return False
    text = config.path.read_text(encoding="utf-8", errors="replace")
    secrets = [key.secret for provider in config.providers for key in provider.keys if key.secret.usable]
    return any(secret.reveal() in text for secret in secrets)


def _of_database(config: Config) -> tuple[Finding, Database | None]:
    if config.database_url is None and not (home_path() / "truckllm.db").exists():
        return Finding("database", "ok", f"SQLite in {home_path()}, made at the first start"), None
    try:
        database = open_database(config.database_url, check=False)
        with storage_errors(database):
            found = schema_version(database)
    except TruckError as error:
        return Finding("database", "error", str(error), "start the server, or mend database_url"), None
    if found == SCHEMA:
        return Finding("database", "ok", f"{database.shown}, schema {found}"), database
    database.close()
    has = f"has schema {found}" if found else "is empty"
    newer = found is not None and found > SCHEMA
    if database.sqlite and not newer:
        return Finding("database", "ok", f"{database.shown} {has}; the next command brings it to {SCHEMA}"), None
    todo = "upgrade TruckLLM on this machine" if newer else "run `truckllm db upgrade`"
    return Finding("database", "error", f"{database.shown} {has}, this version needs {SCHEMA}", todo), None


def _of_broker(config: Config, local_stack: Callable[[], str]) -> Iterator[Finding]:
    if config.redis_url is None:
        try:
            yield Finding("broker", "ok", f"no redis_url: the local stack, on {local_stack()}")
        except TruckError as error:
            yield Finding("broker", "error", str(error))
        return
    from worker.limits.server import examine

    shown = public_url(config.redis_url)
    client = redis.Redis.from_url(
        config.redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=None
    )
    try:
        client.ping()
        asyncio.run(examine(config.redis_url))
        policy = _policy(client)
    except TruckError as error:
        yield Finding("broker", "error", str(error), "mend redis_url, or the server that it names")
        return
    except (redis.RedisError, OSError) as error:
        yield Finding(
            "broker", "error", f"{shown}: {type(error).__name__}: {error}", "start the server, or mend redis_url"
        )
        return
    finally:
        client.close()
    if policy not in (None, "noeviction"):
        yield Finding(
            "broker",
            "warning",
            f"{shown} throws keys away when it is full (maxmemory-policy {policy}): limits and tickets could be lost",
            "set maxmemory-policy noeviction",
        )
    else:
        yield Finding("broker", "ok", shown)


def _policy(client: redis.Redis) -> str | None:
    """None where the server doesn't tell, as hosted ones do."""
    try:
        found = client.config_get("maxmemory-policy")
    except redis.ResponseError:
        return None
    return str(found.get("maxmemory-policy", "")) or None if isinstance(found, dict) else None


def _of_workers(config: Config, database: Database) -> Iterator[Finding]:
    from worker.keys import REFUSED

    with storage_errors(database), database.read() as connection:
        now = database.now(connection)
        live = [r for r in worker_store.everyone(connection) if r["heartbeat_at"] > now - LIVE_SECONDS]
        states = key_store.everything(connection)
        waits = standing_waits(connection, config, now)
        queued = queued_by_lane(connection) if any(_days(config)) else {}
        limits = of_keys(config.providers, learned.everything(connection, now))
    served = {name for row in live for name in row["queues"].split(",")}
    missing = [provider.id for provider in config.providers if provider.id not in served]
    if config.redis_url is None:
        yield Finding("workers", "ok", f"{len(live)} live; `truckllm run` starts its own")
    elif missing:
        yield Finding(
            "workers", "warning", f"no live worker serves {', '.join(missing)}", "start one with `truckllm worker`"
        )
    else:
        yield Finding("workers", "ok", f"{len(live)} live, every provider is served")
    if any(row["config_hash"] != config.config_hash() for row in live):
        yield Finding(
            "workers", "warning", "a live worker works by another configuration than this one", "restart the older ones"
        )
    for row in states:
        if row["state"] == key_store.QUARANTINED and _is_configured(row, config):
            name = f"{row['provider']}/{row['key_id']}"
            todo = f"`truckllm keys enable {name}`"
            if row["reason"].startswith(REFUSED):
                todo = "replace the key where its secret comes from"
            yield Finding("keys", "warning", f"{name} is out of use: {row['reason']}", todo)

    for one in waits:
        what = f"{one.key}, {f'model {one.model}' if one.model else 'all models'}"
        told = f"{what}: no call starts until {utc(one.until)}: {one.reason}"
        way_out = "raise the limit and restart a worker" if one.configured else f"`truckllm keys enable {one.key}`"
        yield Finding("keys", "warning", told, f"wait, or {way_out}")

    yield from _of_days(config, queued)

    yield from _of_learned(once_a_pool(limits))


def _days(config: Config) -> Iterator[DayLimit]:
    return (one for provider in config.providers for key in provider.keys for one in day_limits(provider, key))


def _of_days(config: Config, queued: dict[str, int]) -> Iterator[Finding]:
    """Names lanes with more queued jobs than a day's limit of requests lets through."""
    for lane, number in sorted(queued.items()):
        route = config.routes.get(lane)
        names = [name for name, _ in route.pairs()] if route else [one.id for one in config.providers if one.id == lane]
        days = days_of_work(config, names, number)
        if days is not None and days > 1:
            message = f"{lane}: {counted(number, 'job')} wait, {days:,.1f} days of work at its limits of requests a day"
            yield Finding("limits", "warning", message, "wait, raise limit_req_per_day, or add keys or a route")


def _of_learned(found: list[tuple[str, Learned, list[Lowered]]]) -> Iterator[Finding]:
    """What was learned of limits: a warning where more is configured than the server takes."""
    for name, one, limits in found[:SHOWN_LEARNED]:
        too_high = [f"{limit.field}: {limit.whole}" for limit in limits if limit.field and limit.configured]
        todo = (
            f"set {', '.join(too_high)} for {one.model} under `models`, or `truckllm keys reset-limits {name}` if the limit was "
            "raised"
        )
        state: State = "warning" if too_high else "ok"
        yield Finding("limits", state, allows(name, one.model, limits), todo if too_high else "")
    if (more := len(found) - SHOWN_LEARNED) > 0:
        yield Finding("limits", "ok", f"{counted(more, 'model')} more with learned limits: see `truckllm keys`")


def _is_configured(row: RowMapping, config: Config) -> bool:
    """Whether a key's state is that of a configured key with its present secret, as far as that is known here."""
    for provider in config.providers:
        for key in provider.keys:
            if (provider.id, key.id) == (row["provider"], row["key_id"]):
                if row["fingerprint"] == key_store.ANY_SECRET or not key.secret.usable:
                    return True
                return bool(row["fingerprint"] == key_store.fingerprint(key.secret.reveal()))
    return False


async def _of_keys(config: Config) -> list[Finding]:
    from worker.http import HttpSender

    async with HttpSender() as sender:
        checks = [_of_key(sender, provider, key) for provider in config.providers for key in provider.keys]
        found = await asyncio.gather(*checks)
    if home_path().is_dir():  # what was asked for anyway lets `submit` warn of models that are shut down
        keep(home_path(), {one.provider: one for _, one in reversed(found) if one is not None}.values())
    return [finding for finding, _ in found]


async def _of_key(sender: HttpSender, provider: ProviderConfig, key: KeyConfig) -> tuple[Finding, ModelList | None]:
    from worker.providers.base import KEY_KINDS, ProviderRefused, SendError
    from worker.providers.registry import make_provider

    name = f"key {provider.id}/{key.id}"
    try:
        models = await make_provider(provider, sender).list_models(key.secret.reveal())
    except ProviderRefused as error:
        if error.failure.kind not in KEY_KINDS:
            said = f"not asked: {provider.id} tells no list of models ({error.failure.message})"
            return Finding(name, "warning", said, "see at the first call whether the key is good"), None
        todo = "replace the key where its secret comes from"
        return Finding(name, "error", f"refused: {error.failure.message}", todo), None
    except SendError as error:
        todo = "mend base_url or the network"
        return Finding(name, "error", f"no answer from {provider.base_url}: {error}", todo), None
    except TruckError as error:
        return Finding(name, "error", str(error)), None
    listed = ModelList(provider.id, provider.base_url, time.time(), tuple(models))
    return Finding(name, "ok", f"accepted, {len(models)} models"), listed
