"""What errors of the configuration say: the file, the line, the YAML path, what would be right, and never a secret."""

from __future__ import annotations

import pytest

from models.config import Config
from models.config_file import SMALLEST, load_config_text
from models.errors import ConfigError

CANARY = "sk-canary-7f3e9b1c"

HEAD = """\
providers:
  - id: openai
    keys:
      - id: a
        secret: sk-canary-7f3e9b1c
"""


def load(text: str, **environ: str) -> Config:
    return load_config_text(text, environ=environ, name="truckllm.yaml")


def error(text: str, *, secrets: bool = True, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config_text(text, secrets=secrets, environ=environ, name="truckllm.yaml")
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "providers:\n", "providers: []\n", "routes: {}\n", "---\n"])
def test_no_providers_shows_the_smallest_configuration_that_works(text: str) -> None:
    assert error(text).endswith(SMALLEST)
    assert load(SMALLEST, OPENAI_API_KEY=CANARY).providers[0].id == "openai"


def test_a_text_that_is_no_mapping_shows_the_smallest_configuration_too() -> None:
    assert error("- providers\n").endswith(SMALLEST)


def test_a_list_of_providers_under_nearly_that_name_is_told_so() -> None:
    said = error("worker: {}\nprovider:\n  - {id: openai}\n")
    assert said == "truckllm.yaml, line 2: provider is an unknown field; did you mean providers?"


def test_a_tab_is_called_a_tab() -> None:
    said = error("providers:\n\t- id: openai\n")
    assert said == "truckllm.yaml, line 2: is no YAML: a tab stands where only blanks may"


KEY = "providers[0].keys[0]"


@pytest.mark.parametrize(
    ("more", "line", "says"),
    [
        ("        limit_req_per_min: abc", 6, f"{KEY}.limit_req_per_min is 'abc'; should be a whole number from 1"),
        ("        limit_req_per_min: 0", 6, f"{KEY}.limit_req_per_min is 0; should be a whole number from 1"),
        ("        limit_req_per_min: -5", 6, f"{KEY}.limit_req_per_min is -5; should be"),
        (
            "        limit_req_per_min: 1,000",
            6,
            f"{KEY}.limit_req_per_min is '1,000' (write it without commas); should be",
        ),
        ("        limit_req_per_min: 1.5", 6, f"{KEY}.limit_req_per_min is 1.5; should be"),
        ("        limit_req_per_min: true", 6, f"{KEY}.limit_req_per_min is true; should be"),
        ("        limit_req_per_min: [1]", 6, f"{KEY}.limit_req_per_min is a list; should be"),
        ("        limit_req_per_min: {a: 1}", 6, f"{KEY}.limit_req_per_min is a mapping; should be"),
        ("        limit_req_per_min: 1e13", 6, f"{KEY}.limit_req_per_min is 1E+13; should be"),
        ("        use: 80", 6, f"{KEY}.use is 80; should be a share above 0 and up to 1"),
        ("        use: 0", 6, f"{KEY}.use is 0; should be a share"),
        ("        pool: [a]", 6, f"{KEY}.pool should be text"),
        ("        pool: a/b", 6, f"{KEY}.pool should be 1 to 64 letters"),
        ("        limit_rpm: 5", 6, f"{KEY}.limit_rpm is an unknown field; did you mean limit_req_per_min?"),
        (
            "        limit_req_per_minute: 5",
            6,
            f"{KEY}.limit_req_per_minute is an unknown field; did you mean limit_req_per_min?",
        ),
        ("        base_url: x", 6, f"{KEY}.base_url is an unknown field; it belongs to each provider"),
        ("        zzzz: x", 6, f"{KEY}.zzzz is an unknown field; known here: limit_req_per_min, "),
        (
            "        pricing: {input_token_cost: 1}",
            6,
            f"{KEY}.pricing.output_token_cost is missing: the price of 1,000",
        ),
        ("        pricing: 3", 6, f"{KEY}.pricing should be a mapping"),
        (
            "        pricing: {input_token_cost: 1, output_token_cost: 1, currency: dollar}",
            6,
            f"{KEY}.pricing.currency is 'dollar'; should be three letters, like USD",
        ),
        (
            "        pricing: {input_tokn_cost: 1}",
            6,
            f"{KEY}.pricing.input_tokn_cost is an unknown field; did you mean input_token_cost?",
        ),
        (
            "        models:\n          gpt-4.1: {limit_req_per_min: x}",
            7,
            f"{KEY}.models[\"gpt-4.1\"].limit_req_per_min is 'x';",
        ),
        (
            "        models: {m: {contxt: 1}}",
            6,
            f"{KEY}.models.m.contxt is an unknown field; did you mean context_window?",
        ),
        ("        models: [m, 4]", 6, f"{KEY}.models entry 1 should be a model's name as text"),
        ("        models: [m, m]", 6, f"{KEY}.models names 'm' twice"),
        ("        models: m", 6, f"{KEY}.models should be a list of model names"),
        ("    timeout_seconds: 0", 6, "providers[0].timeout_seconds is 0; should be seconds, a number above 0"),
        ("    timeout_seconds: 10m", 6, "providers[0].timeout_seconds is '10m'; should be seconds"),
        ("    allow_http: maybe", 6, "providers[0].allow_http is 'maybe'; should be true or false"),
        ("    name: ''", 6, "providers[0].name should not be empty"),
        ("    headers: {'a b': c}", 6, 'providers[0].headers["a b"] is no name of an HTTP header'),
        ('    headers: {a: "b\\nc"}', 6, "providers[0].headers.a should hold no line breaks"),
        ("    headers: {a: 5}", 6, "providers[0].headers.a should be text; put it in quotes"),
        ("    headers: [a]", 6, "providers[0].headers should be a mapping"),
        ("    id: b", 6, "providers[0].id is given twice (first on line 2); only one can count"),
        ("  - 5", 6, "providers[1] should be a mapping of fields"),
        (
            "  - id: x\n    keys: []",
            6,
            "providers[1].base_url is missing: only the types openai, gemini, claude have a default",
        ),
        ("  - id: claude", 6, "providers[1].keys is missing: a provider needs at least one key"),
        ("  - id: claude\n    keys: []", 7, "providers[1].keys is empty: a provider needs at least one key"),
        ("  - id: claude\n    keys: {a: b}", 7, "providers[1].keys should be a list"),
        ("  - id: claude\n    keys: [{id: a}]", 7, "providers[1].keys[0].secret is missing"),
        ("  - id: open ai\n    keys: [{id: a, secret: b}]", 6, "providers[1].id should be 1 to 64 letters"),
        ("  - keys: [{id: a, secret: b}]", 6, "providers[1].id is missing"),
        ("provider: x", 6, "provider is an unknown field; did you mean providers?"),
        ("worker: {concurency: 5}", 6, "worker.concurency is an unknown field; did you mean concurrency?"),
        ("worker: {processes: 0}", 6, "worker.processes is 0; should be a whole number from 1"),
        ("routes:\n  r: {candidates: [openai]}", 7, "routes.r.candidates[0] is 'openai'; should be \"provider/model\""),
        (
            "routes:\n  r: {candidates: [opnai/m]}",
            7,
            "routes.r.candidates[0] 'opnai/m' names no known provider; did you mean openai?",
        ),
        (
            "routes:\n  r: {candidates: [openai/m], strategy: cost-first}",
            7,
            "routes.r.strategy is 'cost-first'; should be one of",
        ),
        ("routes:\n  r: {strategy: priority}", 7, "routes.r.candidates is missing: a list like"),
    ],
)
def test_an_error_names_line_place_and_what_would_be_right(more: str, line: int, says: str) -> None:
    said = error(HEAD + more + "\n")
    assert f"line {line}: {says}" in said


def test_all_problems_are_listed_together_in_the_order_of_the_file() -> None:
    said = error(
        HEAD
        + "        limit_req_per_min: abc\n        limit_rpm: 3\n    id: twice\n"
        + "  - id: claude\n    keys: [{id: a, secret: '${UNSET}', pool: p}]\n"
        + "  - id: gemini\n    keys: [{id: a, secret: sk-000001, pool: p}, {id: b, secret: sk-000002, pool: p, use: 0.5}]\n"
        + "routes: {r: {candidates: [nobody/m]}}\n"
    )
    lines = said.splitlines()
    assert lines[0] == "truckllm.yaml: 6 problems"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"line {n}" for n in (6, 7, 8, 10, 12, 13)]
    assert "'nobody/m' names no known provider" in said
    assert "keys of one pool share one quota" in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("providers:\n  - id: [\n", "is no YAML"),
        ("providers:\n\t- id: a\n", "line 2: is no YAML"),
        (f"providers:\n  - id: a\n   secret: {CANARY}\n", "line 3: is no YAML"),
        (f"a: b: {CANARY}\n", "line 1: is no YAML"),
        (f"a: *{CANARY}\n", "line 1: is no YAML: a value that begins with *, & or ! has to be in quotes"),
        (f"a: [&{CANARY} 1, &{CANARY} 2, *{CANARY}x]\n", "has to be in quotes"),
        (f"a: !{CANARY}!x y\n", "has to be in quotes"),
        (f"a: @{CANARY}\n", "line 1: is no YAML"),
        (f"a: |{CANARY}\n", "line 1: is no YAML"),
        (f'a: "{CANARY}\n', "is no YAML"),
        ("providers: [{id: a, keys: [{id: a, secret: ${A}}]}]\n", 'inside { } and [ ] a "${VARIABLE}" needs quotes'),
        (f"a: 1\n---\nb: {CANARY}\n", "is no YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "[" * 100 + "]" * 100, "nested too deeply"),
    ],
)
def test_broken_yaml_names_the_line_and_quotes_nothing(text: str, says: str) -> None:
    assert says in error(text)


def test_a_small_file_that_unfolds_to_a_huge_one_is_refused() -> None:
    levels = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    levels += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "repeats itself too often" in error("\n".join(levels))
    assert "holds itself" in error(HEAD + "    options: &o {again: *o}\n")


@pytest.mark.parametrize(
    "text",
    [
        HEAD.replace(f"secret: {CANARY}", f"secret: [{CANARY}]"),
        HEAD.replace(f"secret: {CANARY}", f"secret: {{value: {CANARY}}}"),
        HEAD.replace(f"secret: {CANARY}", f"secret: !vault {CANARY}"),
        HEAD.replace(f"secret: {CANARY}", f"secret: '{CANARY} {CANARY}'"),
        HEAD.replace(f"secret: {CANARY}", f"secrets: {CANARY}"),
        HEAD.replace(f"secret: {CANARY}", f"secret: {CANARY}\n        secret: {CANARY}x"),
        HEAD.replace(f"secret: {CANARY}", f"secret: {CANARY}\n        use: {CANARY}"),
        HEAD.replace(f"secret: {CANARY}", f"secret: {CANARY}\n        {CANARY}: 1"),
        f"providers: [{{id: openai, keys: [{CANARY}]}}]",
        f"providers: [{{id: openai, keys: {CANARY}}}]",
        f"providers: [{{id: openai, api_key: {CANARY}, keys: [{{id: a, secret: b}}]}}]",
        f"providers: {CANARY}",
        CANARY,
    ],
)
def test_a_secret_is_in_no_message_whatever_is_wrong_with_it(text: str) -> None:
    assert "truckllm.yaml" in error(text)


def test_a_secret_from_a_variable_is_in_no_message_either() -> None:
    text = HEAD.replace(CANARY, "${A}") + "        limit_req_per_min: x\n"
    assert "limit_req_per_min" in error(text, A=CANARY)
    assert "secret should hold no spaces" in error(text, A=f"{CANARY} {CANARY}")
    assert "limit_req_per_min is '${A}'" in error(text.replace(": x", ": ${A}"), A=CANARY)
