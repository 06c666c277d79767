"""`truckllm estimate FILE`: tokens, money and time before anything is sent. It makes no call and needs no server."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer

from models.config import Config
from models.config_file import load_config
from models.errors import UsageError
from models.lanes import Lanes
from models.money import decimal_amount, format_money
from models.prices import Cost
from models.store import batches, ledger
from models.wording import counted, duration
from submit.batch_options import BatchOptions
from submit.caps import exactness
from submit.cli.inputs import InputArgument, takes_batch_options
from submit.cli.options import ConfigOption, JsonOption, known, stored
from submit.cli.output import note, print_json, print_table, say
from submit.forecast import ASSUMED_OUTPUT_TOKENS, Average, Forecast, Group, averages, forecast
from submit.price_sources import listed_prices
from submit.producer import check
from submit.source import opened


@takes_batch_options
def estimate(
    file: InputArgument,
    *,
    config: ConfigOption = None,
    options: BatchOptions,
    pilot: Annotated[
        int | None,
        typer.Option("--from", help="Go by what this batch's answered lines took.", metavar="BATCH", callback=known),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what a file will take before anything is sent: tokens, cost and time. Nothing is called, nothing is stored.

    `cost` is what is likely, `most_cost` what it can be at most by the lines' max_tokens, with each line answered once. --json:
    {lines, seconds, days (whole days' quotas, by limits by day), groups: [{provider, model, lines, input_tokens, output_tokens, most_output_tokens, cost, most_cost,
    currency, measured}], notes}; null where nothing tells.
    """
    settings = load_config(config, secrets=False)
    known = _pilot(settings, pilot) if pilot is not None else {}
    with opened(
        file, options.template, ask_empty=options.asks_empty, sheet=options.sheet, encoding=options.encoding
    ) as source:
        checked = check(source, Lanes(settings), options)
        found = forecast(source, settings, options, known)
    notes = [*checked.warnings, *_notes(found, settings, pilot)]
    if json:
        groups = [_group(group) for group in found.groups]
        seconds = None if found.slowest is None else round(found.slowest, 1)
        days = round(max(found.days.values()), 2) if found.days else None
        print_json({"lines": found.lines, "seconds": seconds, "days": days, "groups": groups, "notes": notes})
        return
    print_table(
        ("provider", "model", "lines", "tokens in", "tokens out", "at most", "cost", "at most"),
        [_cells(group) for group in found.groups],
        numbers=("lines", "tokens in", "tokens out", "at most", "cost"),
    )
    say(_summary(found))
    for sentence in notes:
        note(f"note: {sentence}")


def _pilot(config: Config, batch_id: int) -> dict[tuple[str, str], Average]:
    with stored(config) as database, database.read() as connection:
        spent = ledger.spent(connection, ("provider", "model"), batch_id=batch_id)
        if not spent:
            batches.get(connection, batch_id)
    known = averages(spent)
    if not known:
        raise UsageError(f"batch {batch_id} has no answered lines to go by")
    return known


def _notes(found: Forecast, config: Config, pilot: int | None) -> list[str]:
    notes = []
    guessed = [group for group in found.groups if not group.measured]
    if guessed:
        notes.append(
            f"tokens are guessed from characters, and answers taken for {ASSUMED_OUTPUT_TOKENS} tokens or less where nothing else "
            "tells; run a pilot (`truckllm run FILE --limit 20`) and ask again with `--from BATCH`"
        )
    if pilot is not None and guessed:
        names = ", ".join(f"{group.provider}/{group.model}" for group in guessed)
        notes.append(f"batch {pilot} tells nothing about {names}")
    if names := ", ".join(f"{group.provider}/{group.model}" for group in found.groups if group.cost is None):
        notes.append(f"UNPRICED: no price is configured for {names}; they are in no cost")
    notes += listed_prices(config, [(group.provider, group.model) for group in found.groups])
    if number := sum(group.unbounded for group in found.groups):
        have = "has" if number == 1 else "have"
        notes.append(f"{counted(number, 'line')} {have} no max_tokens: nothing bounds what they can cost")
    unbounded = {(group.provider, group.model): group.unbounded for group in found.groups if group.unbounded}
    notes.append(f"with --max-cost: {exactness(config, unbounded)}")
    notes += [f"{name}: {days:.0%} of a day's quota" for name, days in found.days.items() if days <= 1]
    if names := ", ".join(
        name for name, seconds in found.seconds.items() if seconds is None and name not in found.days
    ):
        notes.append(f"no limits are configured for {names}: how long that takes, nobody can say")
    notes += [
        f"lines on route {name} are counted for its first candidate, {'/'.join(config.routes[name].pairs()[0])}"
        for name in sorted(found.routed)
    ]
    return notes


def _summary(found: Forecast) -> str:
    likely = _sums(group.cost for group in found.groups)
    most = _sums(group.most_cost for group in found.groups)
    whole = all(group.most_cost is not None for group in found.groups if group.cost is not None)
    cost = " + ".join(likely) or "unpriced"
    bound = f", at most {' + '.join(most)}" if most and whole else ""
    time = "" if found.slowest is None else f", about {duration(found.slowest)} by the limits"
    if found.slowest is not None and found.slowest == max(found.days.values(), default=0.0) * 86_400:
        time = f", {max(found.days.values()):,.1f} days at this quota"
    return f"{counted(found.lines, 'line')}: {cost}{bound}{time}"


def _sums(costs: Any) -> list[str]:
    sums: dict[str, int] = {}
    for cost in costs:
        if cost is not None:
            sums[cost.currency] = sums.get(cost.currency, 0) + cost.nanos
    return [format_money(nanos, currency) for currency, nanos in sorted(sums.items())]


def _group(group: Group) -> dict[str, Any]:
    return {
        "provider": group.provider,
        "model": group.model,
        "lines": group.lines,
        "input_tokens": group.input_tokens,
        "output_tokens": group.output_tokens,
        "most_output_tokens": None if group.unbounded else group.most_output_tokens,
        "cost": _amount(group.cost),
        "most_cost": _amount(group.most_cost),
        "currency": group.cost.currency if group.cost else None,
        "measured": group.measured,
    }


def _amount(cost: Cost | None) -> str | None:
    amount: Decimal | None = None if cost is None else decimal_amount(cost.nanos)
    return None if amount is None else format(amount, "f")


def _cells(group: Group) -> tuple[object, ...]:
    return (
        group.provider,
        group.model,
        f"{group.lines:,}",
        f"{group.input_tokens:,}",
        f"{group.output_tokens:,}",
        "?" if group.unbounded else f"{group.most_output_tokens:,}",
        "UNPRICED" if group.cost is None else format_money(group.cost.nanos, group.cost.currency),
        "?" if group.most_cost is None else format_money(group.most_cost.nanos, group.most_cost.currency),
    )
