"""The judge itself: which row of the ledger is about which call of the sandbox's log."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from models.states import Outcome
from tests.acceptance.truth import TOKENS, by_sha, match

NO_TOKENS = dict.fromkeys(TOKENS)
TOKENS_OF_IT = {**NO_TOKENS, "input_tokens": 15, "output_tokens": 9}


def row(outcome: Outcome, tokens: dict[str, Any], status: int | None = 200) -> dict[str, Any]:
    where = {"dialect": "openai", "provider": "openai", "key_id": "k", "requested_model": "m", "sha": "s"}
    return {**where, "outcome": outcome, "http_status": status, "error_code": None, **tokens}


def call(fault: str | None, tokens: dict[str, Any], *, whole: bool = True) -> dict[str, Any]:
    where = {"provider": "openai", "model": "m", "key_id": "k", "prompt_sha": "s", "n": 1}
    return {**where, "status": 200, "fault": fault, "sent_whole": whole, **tokens}


ROWS = [row(Outcome.FAILED, NO_TOKENS), row(Outcome.SUCCEEDED, TOKENS_OF_IT), row(Outcome.UNKNOWN, NO_TOKENS, None)]
CALLS = [call("error_in_200", NO_TOKENS), call(None, TOKENS_OF_IT), call("hang", NO_TOKENS, whole=False)]


@pytest.mark.parametrize("rows", list(permutations(ROWS)))
def test_each_row_finds_its_call_in_whatever_order_they_stand(rows: tuple[dict[str, Any], ...]) -> None:
    for calls in permutations(CALLS):
        assert match(by_sha(rows, lambda one: one["sha"]), by_sha(calls, lambda one: one["prompt_sha"]), None) == 0


@pytest.mark.parametrize("more", CALLS)
def test_a_call_without_a_row_is_told(more: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="calls that the ledger doesn't hold"):
        match(by_sha(ROWS, lambda one: one["sha"]), by_sha([*CALLS, more], lambda one: one["prompt_sha"]), None)


def test_an_answer_that_nobody_gave_is_told() -> None:
    with pytest.raises(AssertionError, match="no such call arrived"):
        match(by_sha(ROWS, lambda one: one["sha"]), by_sha([CALLS[0], CALLS[2]], lambda one: one["prompt_sha"]), None)
