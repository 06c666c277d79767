"""The guide's own configuration, word for word but for the address: its four providers and all models that it names do their work, at its prices."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.models.test_config import GUIDE_BLOCKS, GUIDE_VALUES
from tests.servers import SandboxProcess
from worker.sandbox.quotas import key_name

MODELS = {
    "openai": ("gpt-4", "gpt-4-turbo", "gpt-4o", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "text-embedding-ada-002"),
    "gemini": ("gemini-1.5-pro", "gemini-1.5-flash", "gemini-pro"),
    "claude": ("claude-3-opus-20240229", "claude-3-sonnet-20240229", "claude-3-haiku-20240307", "claude-2.1"),
    "custom": ("model-1", "model-2"),
}
"""The guide's lists of supported models, and the example's own."""

PLUGIN = """
from truckllm import Answer, JsonProvider, Usage


class CustomProvider(JsonProvider):
    def path(self, request):
        return "/chat/completions"

    def write_body(self, wanted):
        return {"model": wanted.model, "messages": wanted.messages(), "max_tokens": wanted.take("max_tokens")}

    def read_answer(self, body):
        used = Usage(body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"])
        return Answer(text=body["choices"][0]["message"]["content"], usage=used)

    def read_models(self, body):
        return ["model-1", "model-2"]
"""


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


def line(provider: str, model: str) -> dict[str, object]:
    found: dict[str, object] = {"id": model, "model": f"custom/{model}" if provider == "custom" else model}
    if "embedding" in model:
        return {**found, "embed": f"A text for {model}"}
    if "instruct" in model:
        body = {"model": model, "prompt": f"A prompt for {model}"}
        return {"custom_id": model, "method": "POST", "url": "/v1/completions", "body": body}
    return {**found, "prompt": f"A prompt for {model}", "max_tokens": 60}


def test_the_guides_configuration_runs_all_its_models_at_its_prices(
    cli: Callable[..., subprocess.CompletedProcess[str]],
    sandbox: SandboxProcess,
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    # blocks below one another make one list of providers; the custom one's plugin is installed, as its step 2 says
    whole = "providers:\n" + "".join(block.partition("providers:\n")[2] for block in GUIDE_BLOCKS.values())
    hosts = {
        "https://api.openai.com/v1": "openai",
        "https://generativelanguage.googleapis.com/v1": "gemini",
        "https://api.anthropic.com/v1": "claude",
        "https://api.custom-provider.com/v1": "openai",
    }
    for host, dialect in hosts.items():
        assert whole.count(host) == 1
        whole = whole.replace(host, f"{sandbox.url}/{dialect}/v1")
    (tmp_path / "truckllm.yaml").write_text(whole)
    site = tmp_path / "site" / "custom-1.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: custom\nVersion: 1.0\n")
    (site / "entry_points.txt").write_text("[truckllm.providers]\ncustom = custom_provider:CustomProvider\n")
    (tmp_path / "site" / "custom_provider.py").write_text(PLUGIN)
    keys = {f"{name.upper()}_API_KEY": f"sk-guide-{name}" for name in GUIDE_BLOCKS}
    env = {**keys, "PYTHONPATH": str(tmp_path / "site")}
    lines = [line(provider, model) for provider, models in MODELS.items() for model in models]
    lines.append({"id": "ft", "model": "ft:gpt-3.5-turbo:acme::7", "prompt": "Found by its name", "max_tokens": 60})
    done = cli("run", write_lines(lines), **env)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "UNPRICED" not in done.stdout
    calls = Counter(call["key_id"] for call in sandbox.log())
    wanted_calls = {name: len(models) for name, models in MODELS.items()}
    wanted_calls["openai"] += 1  # the fine-tuned one
    assert calls == {key_name(keys[f"{name.upper()}_API_KEY"]): count for name, count in wanted_calls.items()}
    report = json.loads(cli("costs", "--json", **env).stdout)
    rows = {(row["provider"], row["model"]): row for row in report["rows"]}
    wanted = {(provider, model) for provider, models in MODELS.items() for model in models}
    assert set(rows) == {*wanted, ("openai", "ft:gpt-3.5-turbo:acme::7")}
    for (provider, _), row in rows.items():
        given, made = map(Decimal, GUIDE_VALUES[provider][3:])
        assert Decimal(row["cost"]) == (row["input_tokens"] * given + row["output_tokens"] * made) / 1000
        assert row["currency"] == "USD"
