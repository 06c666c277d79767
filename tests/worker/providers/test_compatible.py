"""Any OpenAI-compatible vendor is one block of YAML: every block of docs/providers.md, Azure's ways on a strict server, a server that
isn't ours under `truckllm run`.

The dialect itself is in test_golden.py and test_sandbox.py.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from models.config import ProviderConfig
from models.config_file import load_config_text
from models.errors import ConfigError
from models.request import FailureKind, Request, Usage
from tests.servers import wait_for
from worker.http import HttpSender
from worker.providers.base import ProviderRefused
from worker.providers.contract import KEY, NoSender
from worker.providers.openai_chat import read_usage
from worker.providers.registry import make_provider

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
PAGE = (Path(__file__).parents[3] / "docs" / "providers.md").read_text()
BLOCKS = re.findall(
    r"^```yaml\n(.*?)^```", PAGE.split("## Compatible servers")[1].split("\n## ")[0], re.MULTILINE | re.DOTALL
)
HI = {"messages": [{"role": "user", "content": "hi"}]}
VENDORS = {
    "vllm": ("http://127.0.0.1:8000/v1", {}),
    "ollama": ("http://127.0.0.1:11434/v1", {}),
    "groq": ("https://api.groq.com/openai/v1", {"authorization": "Bearer $"}),
    "openrouter": (
        "https://openrouter.ai/api/v1",
        {"authorization": "Bearer $", "http-referer": "https://example.com", "x-title": "My batch"},
    ),
    "together": ("https://api.together.xyz/v1", {"authorization": "Bearer $"}),
    "deepseek": ("https://api.deepseek.com/v1", {"authorization": "Bearer $"}),
    "azure": ("https://my-resource.openai.azure.com/openai/v1", {"api-key": "$"}),
    "azure-deployments": ("https://my-resource.openai.azure.com/openai", {"api-key": "$"}),
}
"""Where the calls of each block go, and with which headers. `$` is the key."""


def documented() -> dict[str, ProviderConfig]:
    found = {}
    for block in BLOCKS:
        names = re.findall(r"\$\{(\w+)\}", block)
        for provider in load_config_text(block, environ=dict.fromkeys(names, KEY)).providers:
            found[provider.id] = provider
    return found


def test_every_vendor_in_the_docs_is_checked_here() -> None:
    assert list(documented()) == list(VENDORS)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_documented_block_sends_what_the_vendor_takes(vendor: str) -> None:
    settings = documented()[vendor]
    url, headers = VENDORS[vendor]
    wanted = {name: value.replace("$", KEY) for name, value in headers.items()}
    provider = make_provider(settings, NoSender())
    (model,) = settings.models
    key = settings.keys[0].secret.reveal()
    call, listing = provider.build(Request(model, HI, key)), provider.build_list_models(key)
    middle, query = ("/deployments/my-gpt-4o-mini", "?api-version=2024-10-21") if "deployments" in vendor else ("", "")
    assert (call.url, listing.url) == (f"{url}{middle}/chat/completions{query}", f"{url}/models{query}")
    assert dict(call.headers) == {"content-type": "application/json", **wanted}
    assert dict(listing.headers) == wanted
    assert json.loads(call.body or b"") == {"model": model, **HI}


def test_a_models_name_is_no_path_of_its_own() -> None:
    settings = {
        "id": "a",
        "type": "openai",
        "base_url": "https://x.example/openai",
        "model_path": "/deployments/{model}",
    }
    provider = make_provider(
        ProviderConfig.model_validate({**settings, "keys": [{"id": "k", "secret": KEY}]}), NoSender()
    )
    url = provider.build(Request("../a/b?c#d", HI, KEY)).url
    assert url == "https://x.example/openai/deployments/..%2Fa%2Fb%3Fc%23d/chat/completions"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("keyless: true\n    keys: [{id: k, secret: sk-123456}]", "keys[0].secret would never be sent"),
        ("keyless: true\n    key_header: api-key", "key_header has no key to carry"),
        ("keyless: maybe\n    keys: [{id: k, secret: sk-123456}]", "keyless is 'maybe'; should be true or false"),
        ("keys: [{id: k}]", "keys[0].secret is missing: "),
        ("keys: [{id: k, secret: sk-123456}]\n    key_header: 'api key'", "key_header is no name of an HTTP header"),
        (
            "keys: [{id: k, secret: sk-123456}]\n    model_path: /deployments",
            "model_path is '/deployments'; should be a path",
        ),
        (
            "keys: [{id: k, secret: sk-123456}]\n    model_path: '{model}/{model}'",
            "should be a path that holds {model} once",
        ),
        ("keys: [{id: k, secret: sk-123456}]\n    query: {version: [1]}", "query.version should be text"),
    ],
)
def test_what_is_wrong_with_a_block_is_told_with_its_yaml_path(fields: str, told: str) -> None:
    block = f"providers:\n  - id: mine\n    type: openai\n    base_url: https://x.example/v1\n    {fields}\n"
    with pytest.raises(ConfigError) as error:
        load_config_text(block)
    assert "providers[0]." in str(error.value)
    assert told in str(error.value)
    assert "sk-123456" not in str(error.value)


@pytest.mark.parametrize("kind", ["gemini", "claude"])
def test_dialects_with_a_header_of_their_own_refuse_another(kind: str) -> None:
    with pytest.raises(ConfigError, match="is for OpenAI-compatible servers and plugins") as error:
        load_config_text(
            f"providers:\n  - id: {kind}\n    key_header: api-key\n    keys: [{{id: k, secret: sk-123456}}]\n"
        )
    assert "providers[0].key_header" in str(error.value)


def test_cached_tokens_are_read_in_deepseeks_words_too() -> None:
    told = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 4}
    assert read_usage(told) == Usage(9, 2, cached_tokens=5)


# On the wire


class Strict(http.server.BaseHTTPRequestHandler):
    """Azure's older API at /openai, and at /local a server that refuses whoever sends a key."""

    protocol_version = "HTTP/1.1"
    deployments = ("my-gpt-4o",)

    def do_GET(self) -> None:
        if self.allowed():
            self.answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.deployments]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        found = re.fullmatch(r"(/local|/openai/deployments/([^/]+))/chat/completions", urlsplit(self.path).path)
        if found is None:
            self.answer(404, {"error": {"code": "404", "message": "Resource not found"}})
        elif found[2] and found[2] not in self.deployments:
            message = "The API deployment for this resource does not exist."
            self.answer(404, {"error": {"code": "DeploymentNotFound", "message": message}})
        else:
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}
            usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
            self.answer(
                200,
                {"id": "c1", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage},
            )

    def allowed(self) -> bool:
        parts = urlsplit(self.path)
        keys = {name: self.headers[name] for name in ("authorization", "api-key") if name in self.headers}
        local = parts.path.startswith("/local")
        if keys != ({} if local else {"api-key": KEY}):
            self.answer(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key"}})
        elif not local and parse_qs(parts.query) != {"api-version": ["2024-10-21"]}:
            self.answer(400, {"error": {"code": "BadRequest", "message": "api-version is missing or unknown"}})
        else:
            return True
        return False

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strict)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


AZURE = {"model_path": "/deployments/{model}", "query": {"api-version": "2024-10-21"}, "key_header": "api-key"}


def ask(url: str, model: str, **settings: Any) -> tuple[Any, Any]:
    """The response to one chat call, and the list of models or the failure with which it was refused."""
    config = ProviderConfig.model_validate(
        {"id": "a", "type": "openai", "base_url": url, "keys": [{"id": "k", "secret": KEY}], **settings}
    )
    key = config.keys[0].secret.reveal()

    async def both() -> tuple[Any, Any]:
        async with HttpSender() as sender:
            provider = make_provider(config, sender)
            response = await provider.generate(Request(model, HI, key))
            try:
                return response, [found.id for found in await provider.list_models(key)]
            except ProviderRefused as error:
                return response, error.failure

    return asyncio.run(both())


def test_azures_deployments_answer(strict: str) -> None:
    response, models = ask(f"{strict}/openai", "my-gpt-4o", **AZURE)
    assert (response.failure, response.text, response.usage) == (None, "Hello", Usage(7, 2))
    assert models == ["my-gpt-4o"]


@pytest.mark.parametrize(
    ("model", "left_out", "kind"),
    [
        ("my-gpt-5", None, FailureKind.MODEL),
        ("my-gpt-4o", "key_header", FailureKind.AUTH),
        ("my-gpt-4o", "query", FailureKind.BAD_REQUEST),
        ("my-gpt-4o", "model_path", FailureKind.BAD_REQUEST),
    ],
)
def test_each_of_azures_settings_is_needed(strict: str, model: str, left_out: str | None, kind: FailureKind) -> None:
    settings = {name: value for name, value in AZURE.items() if name != left_out}
    response, _ = ask(f"{strict}/openai", model, **settings)
    assert response.failure.kind is kind


def test_a_server_without_keys_is_sent_none(strict: str) -> None:
    response, models = ask(f"{strict}/local", "any", keyless=True, keys=[{"id": "k"}])
    assert (response.failure, models) == (None, ["my-gpt-4o"])
    refused, _ = ask(f"{strict}/local", "any")
    assert refused.failure.kind is FailureKind.AUTH


# A server that we didn't write


RULES = {
    "version": 1,
    "rules": [
        {"name": "capital", "when": {"messages_contain": "capital"}, "respond": {"content": "It is Paris, as ever."}},
        {"name": "broken", "when": {"messages_contain": "refuse"}, "respond": {"status": 400, "error": "I won't"}},
    ],
}


@pytest.fixture
def fakellm(tmp_path: Path) -> Iterator[str]:
    """fakellm, a package that plays OpenAI's chat, as a process of its own."""
    (tmp_path / "fakellm.yaml").write_text(yaml.safe_dump(RULES))
    log = tmp_path / "fakellm.log"
    with log.open("w") as output:
        command = [sys.executable, "-P", "-m", "fakellm.cli", "serve", "--port", "0"]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    try:
        found = wait_for(lambda: re.search(r"Uvicorn running on (http://\S+)", log.read_text()), "fakellm to listen")
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def told(url: str, body: dict[str, Any]) -> Any:
    """What the server says itself, asked without any of our code."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def test_a_server_that_isnt_ours_works_by_one_block(
    cli: Cli, fakellm: str, write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "truckllm.yaml").write_text(
        f"providers:\n  - id: fake\n    type: openai\n    base_url: {fakellm}/v1\n    keyless: true\n    models: [fake-1]\n"
        "    keys: [{id: local, pricing: {input_token_cost: 1, output_token_cost: 2}}]\n"
    )
    questions = ["What is the capital of France?", "And what else is there to be said about it?", "Please refuse."]
    lines = write_lines([{"id": str(n), "model": "fake-1", "prompt": text} for n, text in enumerate(questions)])
    done = cli("run", lines, "--json")
    assert done.returncode == 1, done.stderr  # the one that is refused

    rows = [json.loads(line) for line in (tmp_path / "prompts.results.jsonl").read_text().splitlines()]
    assert rows[0]["text"] == "It is Paris, as ever."
    assert (rows[2]["error"]["code"], rows[2]["error"]["message"]) == ("mock_error", "I won't")
    with urllib.request.urlopen(f"{fakellm}/_fakellm/stats", timeout=30) as reply:
        assert json.load(reply)["total_requests"] == 3  # one call a line

    used = {"prompt_tokens": 0, "completion_tokens": 0}
    for row, text in zip(rows, questions[:2], strict=False):
        answer = told(fakellm, {"model": "fake-1", "messages": [{"role": "user", "content": text}]})
        assert row["text"] == answer["choices"][0]["message"]["content"]
        assert (row["input_tokens"], row["output_tokens"]) == tuple(answer["usage"][name] for name in used)
        used = {name: used[name] + answer["usage"][name] for name in used}
    (total,) = json.loads(cli("costs", "--json").stdout)["totals"]
    assert (total["input_tokens"], total["output_tokens"]) == tuple(used.values())
    assert min(used.values()) > 5
    assert float(total["cost"]) == (used["prompt_tokens"] + 2 * used["completion_tokens"]) / 1000

    listing = cli("models")  # it has no list of models
    assert (listing.returncode, "fake: tells no list of models: " in listing.stderr) == (2, True)
    checked = cli("doctor", "--keys")  # which is no reason to doubt the key
    assert "tells no list of models" in checked.stdout
    assert "refused" not in checked.stdout
