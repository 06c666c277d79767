"""Replies of something else than the API, as servers and gateways send them, and refusals that look alike; what a model lacks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.config import ProviderConfig
from models.request import Failure, FailureKind, FailureScope, Request
from tests.worker.providers.acme import Acme
from worker.providers.base import Provider, Reply
from worker.providers.claude import Claude
from worker.providers.contract import NoSender
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

KEY = "sk-abcdefgh0123"
DIALECTS = [OpenAI, Claude, Gemini]


def failure(
    kind: type[Provider], status: int, body: str | dict[str, Any], stream: bool = False, **headers: str
) -> Failure:
    config = ProviderConfig.model_validate(
        {
            "id": "x",
            "type": "openai",
            "base_url": "https://host/v1",
            "query": {"q": KEY},
            "keys": [{"id": "k", "secret": KEY}],
        }
    )
    text = body if isinstance(body, str) else json.dumps(body)
    request = Request("m-1", {"messages": [{"role": "user", "content": "x"}], "stream": stream}, KEY)
    found = kind(config, NoSender()).read(request, Reply(status, headers, text.encode())).failure
    assert found is not None
    return found


OTHERS: list[tuple[int, str | dict[str, Any], str]] = [
    # status, body, its words in the message
    (200, "<!DOCTYPE html><html><head><title>Open WebUI</title></head><body>SPA</body></html>", "Open WebUI"),
    (200, "\ufeff\n<html><body>Sign in</body></html>", "Sign in"),
    (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "Unexpected endpoint or method"),
    (200, {"message": "Hello from the API root"}, "Hello from the API root"),
    (200, "OK", "OK"),
    (200, "upstream healthy\n", "upstream healthy"),
    (200, "[]", "(2 bytes)"),
    (200, '["v1", "v2"]', "(12 bytes)"),
    (200, "true", "(4 bytes)"),
    (200, '"pong"', "(6 bytes)"),
    (302, "", "redirects"),
    (308, "", "redirects"),
    (404, "", "HTTP 404"),
    (404, "404 page not found", "404 page not found"),
    (404, {"detail": "Not Found"}, "Not Found"),
    (404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, "File Not Found"),
    (404, {"type": "error", "error": {"type": "not_found_error", "message": "Not Found"}}, "Not Found"),
    (
        404,
        {"error": {"message": "Invalid URL (POST /v1/v1/chat/completions)", "type": "invalid_request_error"}},
        "Invalid URL",
    ),
    (
        404,
        {"error": {"message": "Unknown request URL: POST /v2. Please check the URL for typos", "code": "unknown_url"}},
        "Unknown",
    ),
    (404, {"error": {"code": "404", "message": "Resource not found"}}, "Resource not found"),
    (404, {"message": "no Route matched with those values"}, "no Route matched"),
    (
        404,
        "<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1><hr>nginx/1.27.0</body></html>",
        "nginx",
    ),
    (404, "<p>The requested URL <code>/v1/chat</code> was not found on this server.", "was not found on this server"),
    (404, "<pre>Cannot POST /chat/completions</pre>", "Cannot POST"),
    (405, {"detail": "Method Not Allowed"}, "Method Not Allowed"),
    (403, {"message": "Missing Authentication Token"}, "Missing Authentication Token"),
    (400, "<h1>400 Bad Request</h1>The plain HTTP request was sent to HTTPS port", "plain HTTP request"),
]


@pytest.mark.parametrize("dialect", [*DIALECTS, Acme])
@pytest.mark.parametrize(("status", "body", "words"), OTHERS)
def test_a_reply_of_something_else_is_about_the_address_and_names_it(
    dialect: type[Provider], status: int, body: str | dict[str, Any], words: str
) -> None:
    found = failure(dialect, status, body)
    assert found.scope is FailureScope.ENDPOINT
    assert words.lower() in found.message.lower()
    assert "; is base_url right? https://host/v1/" in found.message
    assert found.message.endswith(" was asked")
    assert KEY not in found.message


@pytest.mark.parametrize("dialect", DIALECTS)
def test_so_is_a_page_where_a_stream_was_asked_for(dialect: type[Provider]) -> None:
    found = failure(dialect, 200, "<html><body>Sign in</body></html>", stream=True, **{"content-type": "text/html"})
    assert found.scope is FailureScope.ENDPOINT


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, ""),
        (200, "\n\n\n"),
        (200, "[]\x00\xff"),
        (200, '{"choices": [{"mess'),
        (200, "data: {"),
        (200, {"error": {"message": "The server is overloaded"}}),
        (404, {"error": {"message": "The model `m-1` does not exist", "code": "model_not_found"}}),
        (404, {"error": {"message": "File abc not found"}}),
        (404, {"error": {"message": "No such tool: weather"}}),
        (403, {"error": {"message": "Your request was blocked"}}),
        (400, {"error": {"message": "messages: at least one message is required"}}),
        (503, "<html>503 Service Temporarily Unavailable</html>"),
    ],
)
def test_what_the_api_itself_says_is_not(dialect: type[Provider], status: int, body: str | dict[str, Any]) -> None:
    found = failure(dialect, status, body)
    assert found.scope is not FailureScope.ENDPOINT
    assert "base_url" not in found.message


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "message",
    [
        "This model does not support assistant message prefill. The conversation must end with a user message.",
        "Prefilling assistant messages is not supported for this model.",
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.",
        "`tool calling` is not supported with this model",
        "Function calling is not enabled for models/m-1",
    ],
)
def test_what_a_model_lacks_is_about_that_model(dialect: type[Provider], message: str) -> None:
    found = failure(dialect, 400, {"error": {"type": "invalid_request_error", "message": message}})
    assert (found.kind, found.scope, found.message) == (FailureKind.BAD_REQUEST, FailureScope.MODEL, message)
