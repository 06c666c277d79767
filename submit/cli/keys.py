"""`truckllm keys`: the configured keys, whether they are usable, and a person's word on that. It never shows a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer

from models.config import Config, KeyConfig, ProviderConfig
from models.config_file import load_config
from models.day_limits import DayUse, standing_waits
from models.days import DEFAULT_ZONE, local
from models.errors import UsageError
from models.learning import allows, once_a_pool
from models.pools import pool_name
from models.store import cooldowns, learned
from models.store import keys as key_store
from models.wording import learned_limits, utc
from submit import shapes
from submit.cli.options import ConfigOption, JsonOption, stored
from submit.cli.output import note, print_json, print_table, say
from submit.cooldowns import of_key, sentence
from submit.key_listing import read_keys

DISABLED = "disabled by hand"

keys = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

KeyArgument = Annotated[str, typer.Argument(help="The key, as PROVIDER/KEY.", metavar="KEY")]


@keys.callback()
def listing(context: typer.Context, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the keys and whether they are usable; `keys disable` and `keys enable` change that.

    --json: {"keys": [{provider, key_id, pool, state, reason, since, until, cooldowns: [{key, pool, model (null: all), reason, since, until,
    seconds left}], learned: [{model, requests_per_min, tokens_per_min, in_flight, configured: {requests_per_min, tokens_per_min},
    updated_at}], days: [{model (null: all), unit ("requests" or "tokens"), limit, used, zone, since, resets, resets_local}]}]}. `state` is active or quarantined; `since` and `until` are times in UTC or null; `until` null on a quarantined key
    means that a person has to act. `cooldowns` are waits of more than 30 s that the provider has asked for, `learned` the limits of its
    server that were found to be below the configured ones, by model; `keys reset-limits` forgets them. `days` are the configured limits by day and what is used of them since the day began.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_config(config, secrets=False)
    with stored(settings) as database, database.read() as connection:
        listed = read_keys(connection, settings, database.now(connection))
    found = listed.rows()
    if json:
        print_json({"keys": found})
        return
    columns = ("provider", "key_id", "pool", "state", "reason", "since", "until")
    print_table(columns, [[" ".join((row[name] or "").split()) for name in columns] for row in found], cut=("reason",))
    for one in listed.waits:
        if any(of_key(provider, key, [one]) for provider in settings.providers for key in provider.keys):
            say(sentence(one))
    for sentence_of_day in _days(listed.days):
        say(sentence_of_day)
    for name, of_model, its in once_a_pool(listed.learned):
        say(
            f"{allows(_with_pool(name, of_model.pool), of_model.model, its)}; `truckllm keys reset-limits {name}` forgets that"
        )


@keys.command()
def disable(key: KeyArgument, config: ConfigOption = None) -> None:
    """Take a key out of use, for all workers, until `keys enable`; calls under way finish."""
    settings = load_config(config, secrets=False)
    provider, one = _named(settings, key)
    with stored(settings, make=True) as database, database.write() as connection:
        now = database.now(connection)
        done = key_store.disable(connection, provider.id, one.id, shapes.pool(provider, one), DISABLED, now)
    note(f"{key} is out of use; `truckllm keys enable {key}` puts it back" if done else f"{key} is disabled already")


@keys.command()
def enable(key: KeyArgument, config: ConfigOption = None) -> None:
    """Put a key back into use, for all workers, whatever took it out: your word, a refusal, a used-up quota, or a wait that its provider
    has asked for. Limits of the configuration stay, those by day too."""
    settings = load_config(config, secrets=False)
    provider, one = _named(settings, key)
    with stored(settings) as database, database.write() as connection:
        now = database.now(connection)
        done = key_store.enable(connection, provider.id, one.id, now)
        ended = cooldowns.lift(connection, pool_name(provider, one), now)
        stay = [found for found in of_key(provider, one, standing_waits(connection, settings, now)) if found.configured]
    if done:
        note(f"{key} is back in use; workers see it within seconds")
    if ended:
        models = ", ".join(found.model or "all models" for found in ended)
        note(f"{key} doesn't wait any longer for {models}; workers see it within seconds")
    if not (done or ended):
        note(f"{key} is in use already")
    for found in stay:
        note(sentence(found))


@keys.command("reset-limits")
def reset_limits(
    key: Annotated[
        str | None,
        typer.Argument(
            help="The key, as PROVIDER/KEY, or a PROVIDER with all its keys; by default all.", metavar="KEY"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Only of this model.", metavar="MODEL")] = "",
    config: ConfigOption = None,
) -> None:
    """Forget what was learned of the limits of a key's server, for all workers, within seconds. They go by the configured limits then, and
    learn anew. Keys of one pool share what is learned."""
    settings = load_config(config, secrets=False)
    pools = [""] if key is None else _pools(settings, key)
    with stored(settings) as database, database.write() as connection:
        found = learned.reset(connection, pools, model, database.now(connection))
    for one in found:
        note(f"{one.pool.removeprefix('pool:')}, model {one.model}: forgotten: {learned_limits(*one.limits)}")
    if found:
        note("workers see it within seconds")
    else:
        what = f"{key or 'any key'}{f', model {model}' if model else ''}"
        note(
            f"no learned limit is stored of {what}; what workers have learned in the last minute is forgotten within seconds"
        )


def _days(uses: Mapping[tuple[str, str], Sequence[DayUse]]) -> Iterator[str]:
    """Returns what is used of each limit by day in a sentence, once for all keys of a pool."""
    shown = set()
    for (provider, key), its in uses.items():
        for use in its:
            limit = use.limit
            if limit in shown:
                continue
            shown.add(limit)
            there = "" if limit.zone == DEFAULT_ZONE else f" ({local(limit.zone, use.resets)})"
            yield (
                f"{_with_pool(f'{provider}/{key}', limit.pool)}, {f'model {limit.model}' if limit.model else 'all models'}: "
                f"{use.used:,} of {limit.limit:,} {limit.unit} of the day are used; it resets at {utc(use.resets)}{there}"
            )


def _pools(config: Config, text: str) -> list[str]:
    """Returns the pools of the keys that PROVIDER/KEY or PROVIDER names. Raises NotFoundError."""
    if "/" not in text:
        provider = config.provider(text)
        return [pool_name(provider, key) for key in provider.keys]
    return [pool_name(*_named(config, text))]


def _with_pool(name: str, pool: str) -> str:
    """Returns a key's name with the pool that it shares, if any."""
    return f"{name} and the other keys of {pool.removeprefix('pool:')}" if pool.startswith("pool:") else name


def _named(config: Config, text: str) -> tuple[ProviderConfig, KeyConfig]:
    """The key that PROVIDER/KEY names. Raises UsageError."""
    provider_id, slash, key_id = text.partition("/")
    if not slash:
        raise UsageError(f"{text!r}: name a key as PROVIDER/KEY, as `truckllm keys` lists them")
    provider = config.provider(provider_id)
    return provider, provider.key(key_id)
