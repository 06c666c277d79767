"""The examples of docs/plugins.md that its tutorial doesn't run: streams and failures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from models.request import FailureKind
from tests.worker.providers.acme import GOOD, STREAM, Acme, AcmeContract
from tests.worker.providers.test_natural_plugins import failures_of
from truckllm import Reply

PAGE = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text()


def example(name: str) -> type[Acme]:
    (source,) = [block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if f"class {name}" in block]
    found: dict[str, Any] = {"Acme": Acme}
    exec(source, found)
    made: type[Acme] = found[name]
    return made


def suite_of(name: str, **members: Any) -> AcmeContract:
    made: AcmeContract = type("TestExample", (AcmeContract,), {"provider_class": example(name), **members})()
    return made


def test_the_streaming_example_keeps_to_the_contract() -> None:
    suite = suite_of("StreamingAcme", good_stream=STREAM)
    assert failures_of(suite) == {}
    reply = Reply(200, {"content-type": "text/event-stream"}, STREAM)
    assert suite.make_provider().read(suite.simple(stream=True), reply).text == GOOD["says"]


def test_the_judging_example_reads_the_wait_and_leaves_the_rest_to_the_table() -> None:
    suite = suite_of("PatientAcme")
    assert failures_of(suite) == {}
    error = {"error": {"code": "come_back", "message": "too many", "minutes": 2}}
    failure = suite.make_provider().read(suite.simple(), suite.reply(error, 418)).failure
    assert failure is not None
    assert (failure.kind, failure.code, failure.retry_after) == (FailureKind.RATE_LIMIT, "come_back", 120.0)
    other = suite.make_provider().read(suite.simple(), suite.reply({"error": {"code": "bad"}}, 400)).failure
    assert other is not None
    assert other.kind is FailureKind.BAD_REQUEST


def test_the_signal_of_the_page_means_the_same_without_code() -> None:
    block = {"code": "come_back", "meaning": "rate_limit", "scope": "model"}
    assert "{code: come_back, meaning: rate_limit, scope: model}" in PAGE
    suite = AcmeContract()
    failure = (
        suite.make_provider(signals=[block])
        .read(suite.simple(), suite.reply({"error": {"code": "come_back", "message": "try again in 7s"}}, 418))
        .failure
    )
    assert failure is not None
    assert (failure.kind, failure.retry_after) == (FailureKind.RATE_LIMIT, 7.0)


def test_every_kind_is_in_the_table() -> None:
    for kind in FailureKind:
        assert f"`{kind.name}`" in PAGE, kind
