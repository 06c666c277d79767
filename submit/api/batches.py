"""HTTP endpoints on batches: submit, look, steer, rerun, results, delete. Each does what the command of its name does."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, Json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from models.config_fields import EmptyAnswers
from models.errors import ConflictError
from models.formats.form import Form
from models.formats.reading import EmptyPrompts, LastAnswer, UnknownFields
from models.money import DEFAULT_CURRENCY, parse_cap
from models.states import JobStatus
from models.store import batches as batch_store
from models.store import outcomes
from models.store.reruns import Which
from submit import cooldowns, exports, rerunning, shapes, steering
from submit.api.asked import Api, batch_number, query, stored
from submit.api.uploads import Uploads
from submit.batch_options import LARGEST_PRIORITY, BatchOptions, Given
from submit.producer import submit_with
from submit.progress import snapshot
from submit.removal import remove
from submit.source import Kept
from submit.stored_inputs import prompts_of

Currency = Annotated[str, Field(pattern=r"^[A-Za-z]{3}$")]
Priority = Annotated[int, Field(ge=-LARGEST_PRIORITY, le=LARGEST_PRIORITY)]


class Submission(BaseModel):
    """The query of POST /v1/batches: the options of `truckllm submit`, in snake_case."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    provider: str | None = None
    route: str | None = None
    no_fallback: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    template: str | None = None
    sheet: str | None = None
    encoding: str | None = None
    system: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    answer: Annotated[Json[dict[str, Any]] | None, Field(alias="schema")] = None
    skip_invalid: bool = False
    empty_answers: EmptyAnswers | None = None
    empty_prompts: EmptyPrompts | None = None
    unknown_fields: UnknownFields | None = None
    last_answer: LastAnswer | None = None
    name: str | None = None
    priority: Priority = 0
    new: bool = False
    max_cost: str | None = None
    currency: Currency = DEFAULT_CURRENCY


class Steps(BaseModel):
    """The query of lists."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000)] = 20


class Listed(Steps):
    """The query of GET /v1/batches/{id}/jobs."""

    status: JobStatus | None = None
    after: Annotated[int, Field(ge=-1, lt=2**63)] = -1


class Written(BaseModel):
    """The query of GET /v1/batches/{id}/results."""

    model_config = ConfigDict(extra="forbid")

    format: Form = Form.JSONL


class Cap(BaseModel):
    """The query of POST /v1/batches/{id}/resume."""

    model_config = ConfigDict(extra="forbid")

    max_cost: str | None = None
    currency: Currency = DEFAULT_CURRENCY


class Placed(BaseModel):
    """The query of POST /v1/batches/{id}/priority."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


class Again(BaseModel):
    """The query of POST /v1/batches/{id}/rerun."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    status: JobStatus = JobStatus.FAILED
    error: str | None = None
    failed_at: str | None = Field(default=None, alias="from")
    asked: str | None = Field(default=None, alias="from_model")
    ids: list[str] = Field(default_factory=list, alias="id")
    force: bool = False
    provider: str | None = None
    route: str | None = None
    model: str | None = None


async def create(request: Request) -> Response:
    """POST /v1/batches: the input is the body, whatever `truckllm submit FILE` takes."""
    api = Api.of(request)
    asked = query(request, Submission)
    options = {**asked.model_dump(include=set(Given.__annotations__)), "schema": asked.answer}
    cap = parse_cap(asked.max_cost, asked.currency)
    uploads: Uploads = request.app.state.uploads
    async with uploads.receive(request) as upload:
        done = await uploads.read(
            functools.partial(
                submit_with,
                BatchOptions.of(**cast(Given, options)),
                Kept(upload),
                config=api.config,
                database=api.database,
                name=asked.name,
                priority=asked.priority,
                new=asked.new,
                cap=cap,
                largest_unpacked=api.largest_unpacked,
            )
        )
    answer = {"batch_id": done.batch_id, "total": done.total, "found": done.found, "warnings": list(done.warnings)}
    where = {"Location": f"/v1/batches/{done.batch_id}"}
    return JSONResponse(answer, status_code=201 if done.found == "new" else 200, headers=where)


def listing(request: Request) -> Response:
    """GET /v1/batches: the newest."""
    api = Api.of(request)
    most = query(request, Steps).limit
    with stored(api.database), api.database.read() as connection:
        now = api.database.now(connection)
        ids = [row["id"] for row in batch_store.newest_first(connection, most)]
        return JSONResponse({"batches": [shapes.batch(snapshot(connection, one, api.config, now)) for one in ids]})


def show(request: Request) -> Response:
    """GET /v1/batches/{id}."""
    return _shown(Api.of(request), batch_number(request))


def jobs(request: Request) -> Response:
    """GET /v1/batches/{id}/jobs: the first of them in input order, or the first behind a position."""
    api, number, asked = Api.of(request), batch_number(request), query(request, Listed)
    with stored(api.database), api.database.read() as connection:
        batch_store.get(connection, number)
        rows = outcomes.listing(connection, number, status=asked.status, after=asked.after, most=asked.limit + 1)
        prompts = prompts_of(connection, rows[: asked.limit])
        now = api.database.now(connection)
        waits = cooldowns.of_jobs(connection, rows, api.config, now)
    return JSONResponse(shapes.jobs(rows, asked.limit, prompts, waits, now))


def results(request: Request) -> Response:
    """GET /v1/batches/{id}/results: as `truckllm results` writes them, so far or final."""
    api, number = Api.of(request), batch_number(request)
    form = query(request, Written).format
    lines: Iterator[bytes] = exports.stream(api.database, number, form)
    kind = "text/csv; charset=utf-8" if form is Form.CSV else "application/x-ndjson"
    return StreamingResponse(lines, media_type=kind)


def pause(request: Request) -> Response:
    """POST /v1/batches/{id}/pause."""
    api, number = Api.of(request), batch_number(request)
    with stored(api.database):
        steering.pause(api.database, number)
    return _shown(api, number)


def resume(request: Request) -> Response:
    """POST /v1/batches/{id}/resume."""
    api, number, asked = Api.of(request), batch_number(request), query(request, Cap)
    limit = parse_cap(asked.max_cost, asked.currency)
    with stored(api.database):
        steering.resume(api.database, number, limit)
        steering.wake(api.database, api.config, number)
    return _shown(api, number)


def priority(request: Request) -> Response:
    """POST /v1/batches/{id}/priority."""
    api, number, asked = Api.of(request), batch_number(request), query(request, Placed)
    with stored(api.database):
        steering.prioritise(api.database, number, asked.priority)
    return _shown(api, number)


def cancel(request: Request) -> Response:
    """POST /v1/batches/{id}/cancel."""
    api, number = Api.of(request), batch_number(request)
    with stored(api.database):
        steering.cancel(api.database, number)
    return _shown(api, number)


def rerun(request: Request) -> Response:
    """POST /v1/batches/{id}/rerun: failed jobs go back into the queue, elsewhere if that is asked for."""
    api, number, asked = Api.of(request), batch_number(request), query(request, Again)
    which = Which(asked.status, asked.error, asked.failed_at, asked.asked, tuple(asked.ids))
    with stored(api.database):
        queued = rerunning.rerun(
            api.database,
            api.config,
            number,
            which,
            provider=asked.provider,
            route=asked.route,
            model=asked.model,
            force=asked.force,
        )
        steering.wake(api.database, api.config, number)
    return JSONResponse({"batch_id": number, "queued": queued})


def delete(request: Request) -> Response:
    """DELETE /v1/batches/{id}: prompts and replies of an ended batch; its calls stay in the ledger."""
    api, number = Api.of(request), batch_number(request)
    with stored(api.database):
        with api.database.read() as connection:
            batch_store.get(connection, number)
        gone = remove(api.database, number)
        if gone is None:
            raise ConflictError(f"batch {number} is unfinished: cancel it and wait for its end")
        api.database.forget()
    return JSONResponse({"batch_id": number, "jobs": gone})


def _shown(api: Api, number: int) -> Response:
    with stored(api.database), api.database.read() as connection:
        seen: dict[str, Any] = shapes.batch(snapshot(connection, number, api.config, api.database.now(connection)))
    return JSONResponse(seen)
