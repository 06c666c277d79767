"""Finding and reading truckllm.yaml: where it lies, what variables and numbers mean, and what every error says."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import Config
from models.config_file import SMALLEST, load_config, load_config_text
from models.errors import ConfigError

CANARY = "sk-canary-7f3e9b1c"
KEY_SET = {"OPENAI_API_KEY": CANARY}

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


# Finding the file


def test_the_named_file_goes_before_the_variable_and_that_before_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("named.yaml", "variable.yaml", "truckllm.yaml", "truckllm.yml", "truckllm.json"):
        (tmp_path / name).write_text(SMALLEST)
    environ = {**KEY_SET, "TRUCKLLM_CONFIG": "variable.yaml"}
    assert load_config("named.yaml", secrets=True, environ=environ).path == Path("named.yaml")
    assert load_config(None, secrets=True, environ=environ).path == Path("variable.yaml")
    for name in ("truckllm.yaml", "truckllm.yml", "truckllm.json"):
        assert load_config(None, secrets=True, environ=KEY_SET).path == Path(name)
        (tmp_path / name).unlink()
    assert load_config(None, secrets=True, environ=KEY_SET).path is None  # by the key in the environment
    with pytest.raises(ConfigError, match="truckllm init"):
        load_config(None, secrets=True, environ={})


def test_the_environment_of_the_process_is_used_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert load_config(tmp_path / "c.yaml", secrets=True).providers[0].keys[0].secret.reveal() == CANARY


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yaml: no such file"):
        load_config(tmp_path / "nowhere.yaml", secrets=True, environ={})
    with pytest.raises(ConfigError, match=r"named by TRUCKLLM_CONFIG.*no such file"):
        load_config(None, secrets=True, environ={"TRUCKLLM_CONFIG": str(tmp_path / "nowhere.yaml")})
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path, secrets=True, environ={})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_as_editors_on_other_systems_write_them_are_read(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(SMALLEST.replace("\n", "\r\n").encode(encoding))
    assert load_config(file, secrets=True, environ=KEY_SET).providers[0].id == "openai"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(b"providers: \xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(file, secrets=True, environ={})
    file.write_bytes(b"providers:\n  - id: a\x00b")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(file, secrets=True, environ={})


# Variables


def test_variables_are_expanded_anywhere_in_texts() -> None:
    config = load(
        HEAD.replace(CANARY, "${A}-${B:-two}")
        + "        limit_req_per_min: ${RPM}\n"
        + "    base_url: https://${HOST:-api.example.com}/v1\n"
        + "    headers: {x-team: '${TEAM:-}', x-price: '$5 and $${NOT}'}\n"
        + "worker: {grace_seconds: '${GRACE:-2.5}'}\n",
        A="one",
        RPM="200",
        HOST="",
    )
    provider = config.providers[0]
    assert provider.keys[0].secret.reveal() == "one-two"
    assert provider.keys[0].limit_req_per_min == 200
    assert provider.base_url == "https://api.example.com/v1"  # an empty variable takes the default too
    assert provider.headers == {"x-team": "", "x-price": "$5 and ${NOT}"}
    assert config.worker.grace_seconds == 2.5


def test_the_value_of_a_variable_is_not_expanded_again() -> None:
    assert load(HEAD.replace(CANARY, "${A}"), A="${B}").providers[0].keys[0].secret.reveal() == "${B}"


@pytest.mark.parametrize(("environ", "state"), [({}, "is not set"), ({"OPENAI_API_KEY": ""}, "is set but empty")])
def test_a_missing_variable_is_named_with_its_place(environ: dict[str, str], state: str) -> None:
    said = error(SMALLEST, **environ)
    assert said == (
        "truckllm.yaml, line 5: providers[0].keys[0].secret needs the environment variable OPENAI_API_KEY, which "
        + state
    )


def test_commands_that_call_nobody_need_no_keys() -> None:
    text = HEAD.replace(CANARY, "${A}${B}") + "    headers: {x-gateway: '${C}'}\n    options: {deep: [{d: '${D}'}]}\n"
    config = load_config_text(text, secrets=False, environ={"A": "one"})
    with pytest.raises(ConfigError, match=r"providers\[0\]\.keys\[0\]\.secret.*variable B is not set"):
        config.providers[0].keys[0].secret.reveal()
    with pytest.raises(ConfigError) as caught:
        load_config_text(text, secrets=True, environ={"A": "one"})
    assert all(f"variable {name}," in str(caught.value) for name in "BCD")
    assert load_config_text(text, secrets=False, environ=dict.fromkeys("ABCD", "x")).providers[0].keys[0].secret.usable


def test_commands_that_call_nobody_still_need_the_variables_of_settings() -> None:
    said = error(HEAD + "    base_url: ${URL}\n", secrets=False)
    assert "providers[0].base_url needs the environment variable URL, which is not set" in said
    assert said.count("base_url") == 1


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A", "${A B}"])
def test_half_a_variable_is_an_error(text: str) -> None:
    said = error(HEAD + f"    headers: {{x-a: '{text}'}}\n", A="1")
    assert 'providers[0].headers["x-a"] has a "${" that begins no ${VARIABLE}' in said


def test_a_variable_in_a_wrong_value_is_shown_by_its_name() -> None:
    said = error(HEAD + "        limit_req_per_min: ${RPM}\n", RPM="sk-other")
    assert "limit_req_per_min is '${RPM}'; should be a whole number" in said
    assert "sk-other" not in said


def test_storage_comes_from_the_file_unless_the_environment_names_it() -> None:
    text = HEAD + "redis_url: redis://file:6379/0\ndatabase_url: postgresql://file/truckllm\n"
    assert load(text).redis_url == "redis://file:6379/0"
    tls = {
        "TRUCKLLM_REDIS_URL": "rediss://u:p@env:6380/1",
        "TRUCKLLM_DATABASE_URL": "postgresql://u:p@env/truckllm?sslmode=verify-full",
    }
    config = load(text, **tls)
    assert (config.redis_url, config.database_url) == tuple(tls.values())
    assert load(text, TRUCKLLM_REDIS_URL="").redis_url == "redis://file:6379/0"
    assert load(HEAD, TRUCKLLM_REDIS_URL="unix:///run/valkey.sock?db=1").redis_url == "unix:///run/valkey.sock?db=1"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:my@pass/word#1@db.example/truckllm",
        "postgresql://u:my@password@db.example/truckllm",
        "postgresql://u:my/password@db.example/truckllm",
        "redis://:my@pass/word@redis.example:6379/0",
        "redis://:my@pass?word@redis.example:6379/0",
        "redis://:my/password@redis.example:6379/0",
    ],
)
def test_a_password_with_letters_that_end_it_is_refused_with_how_to_write_it(url: str) -> None:
    variable = f"TRUCKLLM_{'REDIS' if url.startswith('redis') else 'DATABASE'}_URL"
    said = error(HEAD, **{variable: url})
    assert "write @ as %40" in said
    assert not [part for part in ("my@", "my/", "pass/", "pass?", "word#", "word@db", "word@redis") if part in said]


def test_an_at_sign_that_cuts_no_password_may_stand() -> None:
    sqlite = "sqlite:////home/me@work/truckllm.db"
    assert load(HEAD, TRUCKLLM_DATABASE_URL=sqlite).database_url == sqlite
    hosted = "postgresql://db.example/truckllm?user=me@db&sslmode=require"
    assert load(HEAD, TRUCKLLM_DATABASE_URL=hosted).database_url == hosted
    assert load(HEAD, TRUCKLLM_REDIS_URL="unix:///run/me@work.sock").redis_url == "unix:///run/me@work.sock"


def test_a_storage_variable_of_the_file_may_be_unset_when_the_environment_names_the_storage() -> None:
    text = HEAD + "redis_url: ${REDIS}\n"
    assert load(text, TRUCKLLM_REDIS_URL="redis://env/0").redis_url == "redis://env/0"
    assert "REDIS, which is not set" in error(text)


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("TRUCKLLM_REDIS_URL", f"http://:{CANARY}@host"),
        ("TRUCKLLM_REDIS_URL", f"redis://:{CANARY}@host:port"),
        ("TRUCKLLM_REDIS_URL", "unix://"),
        ("TRUCKLLM_REDIS_URL", f"redis://:{CANARY}@host/first"),
        ("TRUCKLLM_REDIS_URL", f"redis://:{CANARY}@host/0/1"),
        ("TRUCKLLM_REDIS_URL", f"rediss://:{CANARY}@host?db=x"),
        ("TRUCKLLM_REDIS_URL", "unix:///run/valkey.sock?db="),
        ("TRUCKLLM_REDIS_URL", "redis://host/0?socket_timeout=soon"),
        ("TRUCKLLM_DATABASE_URL", f"mysql://u:{CANARY}@host/db"),
        ("TRUCKLLM_DATABASE_URL", f"postgresql://u:{CANARY}@host"),
        ("TRUCKLLM_DATABASE_URL", f"u:{CANARY}@host"),
    ],
)
def test_a_wrong_storage_url_names_its_variable_and_is_not_shown(variable: str, url: str) -> None:
    assert error(HEAD, **{variable: url}).startswith(f"truckllm.yaml: environment variable {variable} ")


# Numbers and other YAML


def pricing(cost: str) -> str:
    return HEAD + f"        pricing: {{input_token_cost: {cost}, output_token_cost: 0}}\n"


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("0.002", "0.002"),
        ("1e-3", "0.001"),
        ("1E-3", "0.001"),
        (".5", "0.5"),
        ("2.", "2"),
        ("3", "3"),
        ("+0.5", "0.5"),
        ("1_000.5", "1000.5"),
        ('"0.002"', "0.002"),
        ("'1e-3'", "0.001"),
        ("0.000000000001", "0.000000000001"),
    ],
)
def test_prices_are_read_exactly_from_the_text(text: str, cost: str) -> None:
    found = load(pricing(text)).providers[0].keys[0].pricing
    assert found is not None
    assert found.input_token_cost == Decimal(cost)


@given(st.decimals(min_value=0, max_value=9_999_999, places=12, allow_nan=False))
def test_every_price_of_twelve_decimals_survives_the_yaml(cost: Decimal) -> None:
    found = load(pricing(f"{cost:f}")).providers[0].keys[0].pricing
    assert found is not None
    assert found.input_token_cost == cost


@pytest.mark.parametrize("text", ["-0.001", ".inf", ".nan", "abc", "true", "1:30", "1e-13", "1e400", "[1]", "9" * 500])
def test_a_price_that_is_none_is_an_error_at_its_place(text: str) -> None:
    assert "line 6: providers[0].keys[0].pricing.input_token_cost " in error(pricing(text))


def test_plain_words_are_text_even_where_old_yaml_saw_a_date_or_a_truth() -> None:
    config = load(
        HEAD.replace("id: a", "id: no")
        + "    anthropic_version: 2023-06-01\n    allow_http: yes\n    models: {on: , 4: , 1e3: }\n"
    )
    provider = config.providers[0]
    assert (provider.keys[0].id, provider.anthropic_version, provider.allow_http) == ("no", "2023-06-01", True)
    assert list(provider.models) == ["on", "4", "1e3"]


def test_anchors_and_merge_keys_work() -> None:
    config = load(
        "providers:\n  - id: openai\n    keys:\n"
        "      - &first {id: a, secret: sk-1, limit_req_per_min: 5, limit_tokens_per_min: 6}\n"
        "      - {<<: *first, id: b, secret: sk-2}\n"
    )
    first, second = config.providers[0].keys
    assert (second.id, second.limits(), second.secret.reveal()) == ("b", first.limits(), "sk-2")


def test_json_is_read_tabs_and_escapes_included() -> None:
    key = {"id": "a", "secret": "sk/1", "pricing": {"input_token_cost": 0.002, "output_token_cost": 1e-05}}
    tree = {"providers": [{"id": "openai", "name": "🚚 \u00e9", "keys": [key]}]}
    config = load(json.dumps(tree, indent="\t").replace("/", "\\/"))
    provider = config.providers[0]
    assert provider.name == "🚚 é"
    assert provider.keys[0].secret.reveal() == "sk/1"
    assert provider.keys[0].pricing is not None
    assert provider.keys[0].pricing.output_token_cost == Decimal("0.00001")


def test_errors_in_json_have_lines_too() -> None:
    tree = {"providers": [{"id": "openai", "keys": [{"id": "a", "secret": CANARY, "limit_req_per_min": 0}]}]}
    assert "line 9: providers[0].keys[0].limit_req_per_min is 0;" in error(json.dumps(tree, indent="\t"))


def test_options_of_a_plugin_are_plain_json_types() -> None:
    options = load(HEAD + "    options: {a: 0.5, b: [1, {c: 1e-3}], d: null}\n").providers[0].options
    assert options == {"a": 0.5, "b": [1, {"c": 0.001}], "d": None}
    assert isinstance(options["a"], float)
