"""Keys in what providers and plugins say: out of errors, codes and columns, cut or not; never out of the user's own answer."""

from __future__ import annotations

import logging
import sys

import orjson
import pytest

from models.config_file import load_config_text
from models.request import Failure, FailureKind, Response
from tests.fuzz.targets import READERS, read_reply
from worker.providers.base import Reply
from worker.providers.failures import clean
from worker.providers.masks import MaskingFormatter, masked, provider_secrets, without_secrets

KEY = "canary/7f3a+91==.Zk_echoed"


@pytest.mark.parametrize(
    "told",
    [
        KEY,
        KEY[:14],
        KEY.upper(),
        "canary%2F7f3a%2B91%3D%3D.Zk_echoed",
        "canary_7f3a_91_.zk_echoed",
        f"Bearer {KEY}",
        f"{KEY}{KEY}",
        f"clé {KEY}",
        KEY.replace("k", "\u212a"),  # the Kelvin sign, which is a k to whoever ignores case
    ],
)
def test_a_key_is_known_whole_cut_quoted_and_in_any_case(told: str) -> None:
    shown = masked(f"no ({told}) here", [KEY])
    assert "7f3a" not in shown.lower()
    assert shown.startswith("no (")
    assert shown.endswith(") here")


@pytest.mark.parametrize(("secret", "text"), [("none", "none of it"), ("", "a"), ("ollama", "a llama")])
def test_a_short_or_absent_key_leaves_words_alone(secret: str, text: str) -> None:
    assert masked(text, [secret]) == text


def test_a_message_cut_in_the_middle_of_a_key_doesnt_tell_its_beginning() -> None:
    for before in range(49_970, 50_001):
        assert "7f3a" not in clean(" " * before + KEY, [KEY])


def test_only_errors_and_columns_are_masked_not_what_the_user_asked_for() -> None:
    spoken = Response(b'{"a": "' + KEY.encode() + b'"}', 200, text=f"You said {KEY}", request_id=KEY, served_model=KEY)
    shown = without_secrets(spoken, [KEY])
    assert (shown.text, shown.raw_response) == (spoken.text, spoken.raw_response)
    assert (shown.request_id, shown.served_model) == ("***", "***")
    failed = Response(b"", 400, failure=Failure(FailureKind.BAD_REQUEST, KEY, f"no {KEY}"))
    assert without_secrets(failed, [KEY]).failure == Failure(FailureKind.BAD_REQUEST, "error", "no ***")


def test_a_local_servers_short_key_may_be_part_of_its_models_names() -> None:
    spoken = Response(b"{}", 200, served_model="ollama/llama3")
    assert without_secrets(spoken, ["ollama"]) is spoken


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 429, 500])
def test_no_reader_tells_the_key_of_its_caller(reader: str, status: int) -> None:
    from tests.fuzz.targets import SECRET

    told = {"message": f"no {SECRET}", "code": SECRET, "type": SECRET, "status": SECRET, "param": SECRET}
    for body in (
        orjson.dumps({"error": told}),
        orjson.dumps({"error": SECRET}),
        orjson.dumps([{"error": told}]),
        f"<p>{SECRET}</p>".encode(),
        b"<" + b"a" * 3_980 + b">" + SECRET.encode(),
    ):
        headers = {"x-request-id": SECRET, "request-id": SECRET, "location": f"/?key={SECRET}"}
        response = read_reply(reader, Reply(status, headers, body), streamed=False)
        assert response.failure is not None
        said = f"{response.failure} {response.request_id} {response.served_model} {response.finish_reason}"
        assert "canary" not in said


def test_a_log_line_and_its_traceback_tell_no_key_of_the_configuration() -> None:
    config = load_config_text(
        f"providers: [{{id: openai, headers: {{x-gate: gateway-canary-1}}, options: {{a: [option-canary-1]}}, "
        f"keys: [{{id: a, secret: '{KEY}'}}]}}]"
    )
    assert provider_secrets(config.providers[0]) == [KEY, "gateway-canary-1", "option-canary-1"]
    formatter = MaskingFormatter("%(message)s", config, "redis://:canary-password@host/0", None)
    try:
        raise ValueError(f"{KEY} gateway-canary-1")
    except ValueError:
        record = logging.LogRecord("a", 40, "b", 1, "%s canary-password option-canary-1", (KEY,), sys.exc_info())
    text = formatter.format(record)
    assert "canary" not in text
    assert "ValueError: *** ***" in text
