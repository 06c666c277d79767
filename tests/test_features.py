"""The page of features says each sentence of the providers guide and proves it: every row names tests or attacks that are there and run.

Whether a test shows what its row says is for people to judge.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.chaos.registry import scenarios

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "features.md").read_text()
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ATTACK = re.compile(r"`make chaos`: `([\w-]+)`")

GUIDE: dict[str, tuple[str, ...]] = {
    "# Providers": (
        "TruckLLM supports multiple LLM providers through a plugin-based architecture.",
        "Each provider implements a common interface for seamless integration.",
    ),
    "## Supported Providers": (),
    "### OpenAI": (
        "Provider ID: `openai`",
        "Configuration",
        "Supported Models: `gpt-4`, `gpt-4-turbo`, `gpt-4o`, `gpt-3.5-turbo`, `gpt-3.5-turbo-instruct`, `text-embedding-ada-002`",
        "Rate Limits: Based on OpenAI tier",
    ),
    "### Google Gemini": (
        "Provider ID: `gemini`",
        "Configuration",
        "Supported Models: `gemini-1.5-pro`, `gemini-1.5-flash`, `gemini-pro`",
        "Rate Limits: 60 requests/minute for free tier, higher for paid",
    ),
    "### Anthropic Claude": (
        "Provider ID: `claude`",
        "Configuration",
        "Supported Models: `claude-3-opus-20240229`, `claude-3-sonnet-20240229`, `claude-3-haiku-20240307`, `claude-2.1`",
        "Rate Limits: Varies by model",
    ),
    "## Provider Interface": ("All providers implement the `Provider` interface",),
    "### Request Structure": ("`Request`: `Model`, `Input`, `APIKey`",),
    "### Response Structure": (
        "`Response`: `RawResponse`, `HTTPCode`, `Err`, `TokensUsed`, `Latency` in milliseconds",
    ),
    "## Adding Custom Providers": (
        "Implement the Provider interface",
        "Register in the registry",
        "unsupported provider",
        "Add configuration",
    ),
    "## Provider-Specific Features": (),
    "### OpenAI Features": ("Streaming responses", "Function calling", "Vision models", "Fine-tuned models"),
    "### Gemini Features": (
        "Multimodal inputs (text, images)",
        "Function calling",
        "Grounding with Google Search",
        "Code execution",
    ),
    "### Claude Features": ("Large context windows (200K tokens)", "Advanced reasoning", "Constitutional AI safety"),
    "## Pricing Integration": (
        "Each provider includes real-time pricing information",
        "Input Token Cost: Cost per 1,000 input tokens",
        "Output Token Cost: Cost per 1,000 output tokens",
        "Currency: Billing currency (typically USD)",
        "Pricing data is used for cost optimization in load balancing.",
    ),
    "## Rate Limiting": (
        "Each key has configurable rate limits",
        "Requests per Minute: Maximum API calls per minute",
        "Tokens per Minute: Maximum tokens processed per minute",
        "TruckLLM automatically rotates keys when limits are approached.",
    ),
    "## Error Handling": (
        "Providers handle various error conditions",
        "Rate Limits (429): Automatic retry with backoff",
        "Authentication Errors (401/403): Key rotation",
        "Server Errors (5xx): Failover to alternative providers",
        "Model Not Found (404): Fallback model selection",
    ),
    "## Monitoring": (
        "Provider performance is tracked",
        "Request latency",
        "Success/error rates",
        "Token usage",
        "Cost accumulation",
        "Metrics are exposed via Prometheus and admin APIs.",
    ),
    "## Best Practices": (),
    "### Key Management": (
        "Use multiple API keys per provider for redundancy",
        "Rotate keys regularly for security",
        "Monitor key usage and limits",
    ),
    "### Cost Optimization": (
        "Configure accurate pricing information",
        "Use cost-first strategies for budget-conscious deployments",
        "Monitor spending via admin APIs",
    ),
    "### Reliability": (
        "Configure multiple providers for failover",
        "Set appropriate rate limits",
        "Monitor error rates and latency",
    ),
    "### Security": (
        "Store API keys securely (environment variables)",
        "Use HTTPS for all provider communications",
        "Implement proper authentication and authorization",
    ),
}
"""The guide's headings and what stands below each. Its first one is a section here, below the page's own title."""


BEYOND = (
    "Provider features",
    "Plugins",
    "The HTTP API",
    "Lines and translation",
    "Routes and money",
    "Rerun and steering",
    "Under fire",
)
"""What else was asked for; the page's last sections."""


def sections() -> dict[str, list[list[str]]]:
    """The rows of the tables below each heading, cell by cell, by the heading with its marks."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            assert line not in found, f"{line} stands twice"
            title, found[line] = line, []
        elif line.startswith("|") and not line.startswith(("| it says", "|---")):
            found[title].append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


SECTIONS = sections()
ROWS = [row for rows in SECTIONS.values() for row in rows]


@functools.cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def fault(module: ast.Module, name: str) -> str | None:
    """Why a test of this name proves nothing in a module; None if it does."""
    everywhere = [
        statement.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in statement.targets)
    ]
    if any(
        _turned_off(mark)
        for value in everywhere
        for mark in (value.elts if isinstance(value, ast.List | ast.Tuple) else [value])
    ):
        return "the whole file is turned off"
    for test in ast.walk(module):
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name == name:
            if any(_turned_off(mark) for mark in test.decorator_list):
                return "it is turned off"
            calls = [
                line.value for line in test.body if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)
            ]
            if any(ast.unparse(call.func) in ("pytest.skip", "pytest.xfail") for call in calls):
                return "it always skips"
            return None
    return "there is no such test"


def _turned_off(mark: ast.expr) -> bool:
    return ast.unparse(mark.func if isinstance(mark, ast.Call) else mark) in ("pytest.mark.skip", "pytest.mark.xfail")


def test_every_heading_of_the_guide_has_its_section_in_the_guides_order_and_the_rest_comes_behind() -> None:
    ours = [title for title in SECTIONS if title in GUIDE or title == "## Providers"]
    assert ours == ["## Providers", *list(GUIDE)[1:]]
    assert list(SECTIONS)[-len(BEYOND) - 1 :] == ["## Beyond the guide", *(f"### {title}" for title in BEYOND)]
    assert all(SECTIONS[f"### {title}"] for title in BEYOND)


@pytest.mark.parametrize("heading", GUIDE)
def test_every_sentence_of_the_guide_has_a_row_in_its_section(heading: str) -> None:
    rows = SECTIONS["## Providers" if heading == "# Providers" else heading]
    said = [claim.partition(": the block")[0].partition(": `Name`")[0] for claim, *_ in rows]
    assert said == list(GUIDE[heading])


def test_every_row_says_what_how_and_by_which_tests() -> None:
    assert len(ROWS) > 100
    for row in ROWS:
        assert len(row) == 3, row
        assert all(row), row
        proofs = row[2].split("<br>")
        assert all(PROOF.fullmatch(proof) or ATTACK.fullmatch(proof) for proof in proofs), row
        assert len(set(proofs)) == len(proofs), row


def test_every_proof_is_a_test_that_is_there_and_runs() -> None:
    named = sorted(set(PROOF.findall(PAGE)))
    assert len(named) > 100
    missing = [path for path, _ in named if not (ROOT / path).is_file()]
    assert missing == []
    faults = {f"{path}::{name}": why for path, name in named if (why := fault(parsed(path), name))}
    assert faults == {}


def test_every_attack_is_a_scenario_and_every_scenario_proves_something() -> None:
    assert set(ATTACK.findall(PAGE)) == set(scenarios())


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def test_other(): ...", "there is no such test"),
        ("@pytest.mark.skip\ndef test_it(): ...", "it is turned off"),
        ("@pytest.mark.skip(reason='later')\ndef test_it(): ...", "it is turned off"),
        ("@pytest.mark.xfail(strict=True)\nasync def test_it(): ...", "it is turned off"),
        ("def test_it():\n    '''Later.'''\n    pytest.skip('later')", "it always skips"),
        ("pytestmark = [pytest.mark.skip]\ndef test_it(): ...", "the whole file is turned off"),
        ("pytestmark = pytest.mark.skip(reason='x')\ndef test_it(): ...", "the whole file is turned off"),
        ("@pytest.mark.skipif(no_server, reason='no server here')\ndef test_it(): ...", None),
        ("def test_it():\n    if windows:\n        pytest.skip('not here')\n    assert 1", None),
    ],
)
def test_a_test_that_proves_nothing_would_be_found(source: str, why: str | None) -> None:
    assert fault(ast.parse(source), "test_it") == why
