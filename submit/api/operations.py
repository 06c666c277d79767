"""HTTP endpoints for operators: health, metrics, providers, keys, workers, costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Annotated, Any

import anyio
import anyio.to_thread
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models.database import Database, schema_version
from models.errors import NotFoundError, StorageError
from models.money import decimal_amount
from models.pools import pool_name
from models.states import Outcome
from models.store import cooldowns, learned, ledger, traffic
from models.store import keys as key_store
from models.store import workers as worker_store
from models.store.traffic import BUCKETS_MS, TOKENS, Label, Sums
from submit import reports, shapes
from submit.api.asked import Api, query, stored
from submit.api.failures import RefusedError
from submit.key_listing import read_keys
from submit.metadata_costs import PREFIX, spent_by

BY_HAND = "disabled over HTTP"
HEALTH_SECONDS = 1.0
"""So long an answer about the database's health holds."""


class Span(BaseModel):
    """The query of GET /v1/providers: the last so many seconds."""

    model_config = ConfigDict(extra="forbid")

    seconds: Annotated[float, Field(gt=0, le=366 * 86_400)] = 3600.0


class OfModel(BaseModel):
    """The query of POST /v1/keys/{provider}/{key}/reset-limits: one model, or all."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(max_length=300)] = ""


class Costs(BaseModel):
    """The query of GET /v1/costs, as the options of `truckllm costs`."""

    model_config = ConfigDict(extra="forbid")

    by: str = ",".join(reports.DEFAULT_BY)
    batch: Annotated[int, Field(ge=1, lt=2**63)] | None = None
    since: str | None = None
    until: str | None = None


class Health:
    """GET /healthz: whether the database answers. Needs no token, so it shows nothing else, not even why.

    However many ask, the database is asked once at a time and at most once a second, on a thread of its own.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = anyio.CapacityLimiter(1)
        self._lock = anyio.Lock()
        self._until = 0.0
        self._answers = False

    async def answer(self, _: Request) -> Response:
        async with self._lock:
            if time.monotonic() >= self._until:
                self._answers = await anyio.to_thread.run_sync(self._ask, limiter=self._threads)
                self._until = time.monotonic() + HEALTH_SECONDS
        if not self._answers:
            raise RefusedError(503, "the database can't be reached", code="storage_unavailable", retry_after=5)
        return JSONResponse({"status": "ok"})

    def _ask(self) -> bool:
        try:
            with stored(self._database):
                schema_version(self._database)
        except StorageError:
            return False
        return True


def metrics(request: Request) -> Response:
    """GET /metrics, in Prometheus' text format."""
    registry: CollectorRegistry = request.app.state.registry
    with stored(Api.of(request).database):
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def providers(request: Request) -> Response:
    """GET /v1/providers: latency, shares of success and error, tokens and cost of each, over the last hour or `seconds`."""
    api, span = Api.of(request), query(request, Span).seconds
    with stored(api.database), api.database.read() as connection:
        now = api.database.now(connection)
        groups = list(traffic.ended(connection, now - span, now + 1e9, now - span))
    names = dict.fromkeys([provider.id for provider in api.config.providers] + [label.provider for label, _ in groups])
    found = [_provider(name, [group for group in groups if group[0].provider == name]) for name in names]
    return JSONResponse({"seconds": span, "providers": found})


def _provider(name: str, groups: Iterable[tuple[Label, Sums]]) -> dict[str, Any]:
    whole: Sums | None = None
    outcomes: dict[str, int] = {}
    errors: dict[str, int] = {}
    costs: dict[str, int] = {}
    for label, sums in groups:
        whole = sums if whole is None else whole + sums
        outcomes[label.outcome] = outcomes.get(label.outcome, 0) + sums.calls
        if label.error_code:
            errors[label.error_code] = errors.get(label.error_code, 0) + sums.calls
        if label.currency:
            costs[label.currency] = costs.get(label.currency, 0) + sums.cost_nanos
    calls = whole.calls if whole else 0
    return {
        "provider": name,
        "calls": calls,
        "outcomes": outcomes,
        "errors": errors,
        "success_rate": round(outcomes.get(Outcome.SUCCEEDED, 0) / calls, 6) if calls else None,
        "latency_ms": {
            "mean": round(whole.latency_ms / whole.timed) if whole and whole.timed else None,
            "p50": _quantile(whole, 0.5),
            "p95": _quantile(whole, 0.95),
        },
        "tokens": dict(zip(TOKENS, whole.tokens, strict=True)) if whole else dict.fromkeys(TOKENS, 0),
        "costs": {currency: str(decimal_amount(nanos)) for currency, nanos in costs.items()},
    }


def _quantile(sums: Sums | None, share: float) -> int | None:
    """A latency within the histogram, linear inside its bucket; the last bound for what is beyond it. None: nothing was timed."""
    if sums is None or not sums.timed:
        return None
    rank, below, lower = share * sums.timed, 0, 0
    for bound, within in zip(BUCKETS_MS, sums.within, strict=True):
        if within >= rank:
            return round(lower + (bound - lower) * (rank - below) / (within - below))
        below, lower = within, bound
    return BUCKETS_MS[-1]


def keys(request: Request) -> Response:
    """GET /v1/keys."""
    api = Api.of(request)
    with stored(api.database), api.database.read() as connection:
        listed = read_keys(connection, api.config, api.database.now(connection))
    return JSONResponse({"keys": listed.rows()})


def disable_key(request: Request) -> Response:
    """POST /v1/keys/{provider}/{key}/disable."""
    api = Api.of(request)
    provider = api.config.provider(request.path_params["provider"])
    one = provider.key(request.path_params["key"])
    with stored(api.database), api.database.write() as connection:
        now = api.database.now(connection)
        key_store.disable(connection, provider.id, one.id, shapes.pool(provider, one), BY_HAND, now)
    return keys(request)


def enable_key(request: Request) -> Response:
    """POST /v1/keys/{provider}/{key}/enable."""
    api = Api.of(request)
    provider = api.config.provider(request.path_params["provider"])
    one = provider.key(request.path_params["key"])
    with stored(api.database), api.database.write() as connection:
        now = api.database.now(connection)
        key_store.enable(connection, provider.id, one.id, now)
        cooldowns.lift(connection, pool_name(provider, one), now)
    return keys(request)


def reset_limits(request: Request) -> Response:
    """POST /v1/keys/{provider}/{key}/reset-limits."""
    api, model = Api.of(request), query(request, OfModel).model
    provider = api.config.provider(request.path_params["provider"])
    one = provider.key(request.path_params["key"])
    with stored(api.database), api.database.write() as connection:
        learned.reset(connection, [pool_name(provider, one)], model, api.database.now(connection))
    return keys(request)


def workers(request: Request) -> Response:
    """GET /v1/workers."""
    api = Api.of(request)
    with stored(api.database), api.database.read() as connection:
        now = api.database.now(connection)
        return JSONResponse({"workers": [shapes.worker(row, now) for row in worker_store.everyone(connection)]})


def drain_worker(request: Request) -> Response:
    """POST /v1/workers/{worker}/drain."""
    api, text = Api.of(request), request.path_params["worker"]
    with stored(api.database), api.database.write() as connection:
        known = text.isascii() and text.isdigit() and len(text) < 19
        if not known or not worker_store.drain(connection, int(text)):
            raise NotFoundError(f"there is no worker {text[:40]!r}")
    return workers(request)


def costs(request: Request) -> Response:
    """GET /v1/costs: the report of `truckllm costs --json`."""
    api, asked = Api.of(request), query(request, Costs)
    names = reports.dimensions(asked.by)
    period = reports.period_between(asked.since, asked.until)
    notes: list[str] = []
    with stored(api.database):
        if any(name.startswith(PREFIX) for name in names):
            spent, notes = spent_by(api.database, names, batch_id=asked.batch, period=period)
        else:
            with api.database.read() as connection:
                spent = ledger.spent(connection, names, batch_id=asked.batch, period=period)
    return JSONResponse(json.loads(reports.as_json(reports.report(names, spent, notes))))
