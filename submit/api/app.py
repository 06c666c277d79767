"""The HTTP application: routes, who may call them, how many at a time, and errors as JSON: {"error": {"code", "message", "lines"?}}.

It serves no page; `truckllm api` runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ConflictError, InputError, NotFoundError, StorageError, TruckError
from submit.api import batches, operations
from submit.api.access import Access, May
from submit.api.asked import Api, NoRoomError, TooLargeError
from submit.api.failures import PROVEN, RefusedError, error_response
from submit.api.metrics import LedgerCollector
from submit.api.uploads import Uploads
from submit.shapes import input_error

log = logging.getLogger("truckllm.api")

OPEN = "/healthz"
"""The one path that needs no token."""
_WITH_BODY = {("POST", "/v1/batches")}
"""The requests whose body is read. One of any other is refused, because what was asked there would be passed over."""

RETRY_STORAGE_SECONDS = "5"
"""For Retry-After while the database is away."""
_STATUS: tuple[tuple[type[TruckError], int, str], ...] = (
    (NotFoundError, 404, "not_found"),
    (TooLargeError, 413, "too_large"),
    (NoRoomError, 507, "no_space"),
    (ConflictError, 409, "conflict"),
    (StorageError, 503, "storage_unavailable"),
    (InputError, 400, "invalid_input"),
    (TruckError, 400, "bad_request"),
)


def application(api: Api, access: Access) -> Starlette:
    """The application on a database and a configuration, for those whom `access` lets in."""
    one = "/v1/batches/{batch}"
    key = "/v1/keys/{provider}/{key}"
    app = Starlette(
        routes=[
            Route(OPEN, operations.Health(api.database).answer),
            Route("/metrics", operations.metrics),
            Route("/v1/batches", batches.listing),
            Route("/v1/batches", batches.create, methods=["POST"]),
            Route(one, batches.show),
            Route(one, batches.delete, methods=["DELETE"]),
            Route(f"{one}/jobs", batches.jobs),
            Route(f"{one}/results", batches.results),
            Route(f"{one}/pause", batches.pause, methods=["POST"]),
            Route(f"{one}/resume", batches.resume, methods=["POST"]),
            Route(f"{one}/priority", batches.priority, methods=["POST"]),
            Route(f"{one}/cancel", batches.cancel, methods=["POST"]),
            Route(f"{one}/rerun", batches.rerun, methods=["POST"]),
            Route("/v1/costs", operations.costs),
            Route("/v1/providers", operations.providers),
            Route("/v1/keys", operations.keys),
            Route(f"{key}/disable", operations.disable_key, methods=["POST"]),
            Route(f"{key}/enable", operations.enable_key, methods=["POST"]),
            Route(f"{key}/reset-limits", operations.reset_limits, methods=["POST"]),
            Route("/v1/workers", operations.workers),
            Route("/v1/workers/{worker}/drain", operations.drain_worker, methods=["POST"]),
        ],
        middleware=[Middleware(_Guard, access=access), Middleware(_Bounded, most=api.config.api.requests)],
        exception_handlers=_handlers(),
    )
    app.router.redirect_slashes = False  # a redirect would go to whatever Host the caller names
    app.state.api = api
    app.state.uploads = Uploads(api.config.api, api.largest_upload, api.stopping)
    app.state.registry = CollectorRegistry(auto_describe=False)
    app.state.registry.register(LedgerCollector(api.database, api.config))
    return app


class _Guard:
    """Lets nothing through that the caller's token doesn't allow, unknown paths included; reads no body for it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == OPEN:  # it looks at no query
            await self._app(scope, receive, send)
            return
        if not scope["query_string"].isascii():
            message = "the query holds bytes beyond ASCII: write them as %XX"
            await error_response(400, message)(scope, receive, send)
            return
        request = Request(scope)
        given = request.headers.getlist("authorization")
        if len(given) > 1:
            await error_response(400, "the header authorization is there twice")(scope, receive, send)
            return
        may = self._access.of(given[0] if given else None)
        if may is not May.NOTHING:
            scope.get("extensions", {}).get(PROVEN, _unheard)()
        needs = May.READ if request.method in ("GET", "HEAD") else May.ALL
        if may >= needs:
            if _has_body(request) and (request.method, scope["path"]) not in _WITH_BODY:
                message = "a body is not read here: parameters go into the query, like ?priority=5. Nothing was changed"
                await error_response(400, message)(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        elif may is May.NOTHING:
            message = "a token is needed: Authorization: Bearer TOKEN"
            refused = error_response(401, message, {"WWW-Authenticate": "Bearer", "Connection": "close"})
            await refused(scope, receive, send)
        else:
            await error_response(403, "this token may only read")(scope, receive, send)


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0").strip("0") != ""


def _unheard() -> None:
    """Stands in for a server that doesn't ask which connections have shown a token."""


class _Bounded:
    """Lets so many requests be answered at a time; health checks are always among them."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            message = f"{self._most} requests are being answered: ask again in a moment"
            await error_response(503, message, {"Retry-After": "1"}, "overloaded")(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1


def _handlers() -> Mapping[Any, Callable[[Request, Exception], Response]]:
    return {
        HTTPException: _unserved,
        RefusedError: _turned_away,
        TruckError: _refused,
        ClientDisconnect: lambda _request, _error: Response(status_code=499),  # nobody is there to read it
        Exception: _broken,
    }


def _unserved(request: Request, error: Exception) -> Response:
    """What the router finds no endpoint for."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    messages = {404: f"there is nothing at {path}", 405: f"{request.method[:20]} can't be done to {path}"}
    return error_response(error.status_code, messages.get(error.status_code, error.detail), error.headers)


def _turned_away(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return error_response(error.status, error.message, error.headers(), error.code)


def _refused(_: Request, error: Exception) -> Response:
    status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
    more: dict[str, Any] = {}
    if isinstance(error, InputError):
        more = input_error(error)
    headers = {"Retry-After": RETRY_STORAGE_SECONDS} if status == 503 else None
    return error_response(status, str(error), headers, code, **more)


def _broken(request: Request, error: Exception) -> Response:
    log.error("a request failed: %s %s: %s", request.method, request.url.path, type(error).__name__, exc_info=error)
    return error_response(500, "something is wrong here; the log of `truckllm api` says more")
