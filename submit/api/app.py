"""The HTTP application: routes, who may call them, and errors as JSON: {"error": {"message", "lines"?}}.

It serves no page; `truckllm api` runs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ConflictError, InputError, NotFoundError, StorageError, TruckError
from submit.api import batches, operations
from submit.api.access import Access, May
from submit.api.asked import Api, NoRoomError, TooLargeError
from submit.api.metrics import LedgerCollector

log = logging.getLogger("truckllm.api")

OPEN = "/healthz"
"""The one path that needs no token."""

_STATUS: tuple[tuple[type[TruckError], int], ...] = (
    (NotFoundError, 404),
    (TooLargeError, 413),
    (NoRoomError, 507),
    (ConflictError, 409),
    (StorageError, 503),
    (TruckError, 400),
)


def application(api: Api, access: Access) -> Starlette:
    """The application on a database and a configuration, for those whom `access` lets in."""
    one = "/v1/batches/{batch}"
    key = "/v1/keys/{provider}/{key}"
    app = Starlette(
        routes=[
            Route(OPEN, operations.health),
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
            Route("/v1/workers", operations.workers),
            Route("/v1/workers/{worker}/drain", operations.drain_worker, methods=["POST"]),
        ],
        middleware=[Middleware(_Guard, access=access)],
        exception_handlers=_handlers(),
    )
    app.router.redirect_slashes = False  # a redirect would go to whatever Host the caller names
    app.state.api = api
    app.state.registry = CollectorRegistry(auto_describe=False)
    app.state.registry.register(LedgerCollector(api.database, api.config))
    return app


class _Guard:
    """Lets nothing through that the caller's token doesn't allow, unknown paths included."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == OPEN:  # it looks at no query
            await self._app(scope, receive, send)
            return
        if not scope["query_string"].isascii():
            await _error(400, "the query holds bytes beyond ASCII: write them as %XX")(scope, receive, send)
            return
        request = Request(scope)
        may = self._access.of(request.headers.get("authorization"))
        needs = May.READ if request.method in ("GET", "HEAD") else May.ALL
        if may >= needs:
            await self._app(scope, receive, send)
        elif may is May.NOTHING:
            refused = _error(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
            await refused(scope, receive, send)
        else:
            await _error(403, "this token may only read")(scope, receive, send)


def _handlers() -> Mapping[Any, Callable[[Request, Exception], Response]]:
    return {
        404: lambda request, _: _error(404, f"there is nothing at {request.url.path[:200]}"),
        405: lambda request, _: _error(405, f"{request.method} can't be done to {request.url.path[:200]}"),
        TruckError: _refused,
        ClientDisconnect: lambda _request, _error: Response(status_code=499),  # nobody is there to read it
        Exception: _broken,
    }


def _refused(_: Request, error: Exception) -> Response:
    status = next(code for kind, code in _STATUS if isinstance(error, kind))
    more: dict[str, Any] = {}
    if isinstance(error, InputError):
        more = {
            "lines": [{"line": line.number, "reason": line.reason} for line in error.lines],
            "bad_lines": error.count,
        }
    return JSONResponse({"error": {"message": str(error), **more}}, status_code=status)


def _broken(request: Request, error: Exception) -> Response:
    log.error("a request failed: %s %s: %s", request.method, request.url.path, type(error).__name__, exc_info=error)
    return _error(500, "something is wrong here; the log of `truckllm api` says more")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status_code=status, headers=headers)
