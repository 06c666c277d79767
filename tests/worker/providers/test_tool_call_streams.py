"""Tool calls of streams in OpenAI's dialect, as compatible servers really cut them into pieces."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.formats.replies import calls_in
from tests.worker.providers.test_streams import chunk, data, read
from worker.providers.openai import OpenAI


def piece(index: int | None, own_id: str | None = None, name: str | None = None, args: Any = None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", args)) if value is not None}
    told: dict[str, Any] = {"function": function}
    if index is not None:
        told["index"] = index
    return told if own_id is None else {**told, "id": own_id, "type": "function"}


def called(*deltas: list[dict[str, Any]]) -> list[tuple[str | None, str, str]]:
    body = b"".join(data(chunk({"tool_calls": pieces})) for pieces in deltas)
    response = read(OpenAI, body + data(chunk({}, "tool_calls")) + data(b"[DONE]"))
    assert response.failure is None
    calls = orjson.loads(response.raw_response)["choices"][0]["message"]["tool_calls"]
    return [(call.get("id"), call["function"]["name"], call["function"]["arguments"]) for call in calls]


TWO = [("a", "weather", '{"c":"X"}'), ("b", "time", '{"z":"Y"}')]
NO_ID = [(None, name, args) for _, name, args in TWO]


@pytest.mark.parametrize(
    "deltas",
    [
        # whole calls, all with index 0, in one chunk or in two
        [[piece(0, "a", "weather", '{"c":"X"}')], [piece(0, "b", "time", '{"z":"Y"}')]],
        [[piece(0, "a", "weather", '{"c":"X"}'), piece(0, "b", "time", '{"z":"Y"}')]],
        # with pieces of the arguments behind each
        [
            [piece(0, "a", "weather", "")],
            [piece(0, None, None, '{"c"')],
            [piece(0, None, None, ':"X"}')],
            [piece(0, "b", "time", '{"z"')],
            [piece(0, None, None, ':"Y"}')],
        ],
        # without an index
        [
            [piece(None, "a", "weather", '{"c":"X"}')],
            [piece(None, "b", "time", '{"z":')],
            [piece(None, None, None, '"Y"}')],
        ],
        [[piece(None, "a", "weather", '{"c":"X"}'), piece(None, "b", "time", '{"z":"Y"}')]],
        # the id in every piece, the name too
        [[piece(0, "a", "weather", '{"c"')], [piece(0, "a", None, ':"X"}')], [piece(1, "b", "time", '{"z":"Y"}')]],
        [[piece(0, "a", "weather", '{"c"')], [piece(0, "a", "weather", ':"X"}')], [piece(0, "b", "time", '{"z":"Y"}')]],
        [[piece(0, "a", "wea", "")], [piece(0, "a", "weather", '{"c":"X"}')], [piece(0, "b", "time", '{"z":"Y"}')]],
        # the name in pieces, the id late
        [
            [piece(0, None, "wea")],
            [piece(0, "a", "ther")],
            [piece(0, None, None, '{"c":"X"}')],
            [piece(1, "b", "time", '{"z":"Y"}')],
        ],
        # side by side, as the protocol says
        [
            [piece(0, "a", "weather", ""), piece(1, "b", "time", "")],
            [piece(1, None, None, '{"z":"Y"}'), piece(0, None, None, '{"c":"X"}')],
        ],
        # a new id in every piece of a call
        [[piece(0, "a", "weather", '{"c"')], [piece(0, "a2", None, ':"X"}')], [piece(1, "b", "time", '{"z":"Y"}')]],
    ],
)
def test_parallel_calls_are_kept_apart(deltas: list[list[dict[str, Any]]]) -> None:
    assert called(*deltas) == TWO


@pytest.mark.parametrize(
    "deltas",
    [
        [[piece(None, None, "weather", '{"c":"X"}'), piece(None, None, "time", '{"z":"Y"}')]],
        [[piece(0, None, "weather", '{"c":"X"}')], [piece(0, None, "time", '{"z":"Y"}')]],
        [
            [piece(0, None, "weather", '{"c"')],
            [piece(0, None, "weather", ':"X"}')],
            [piece(1, None, "time", '{"z":"Y"}')],
        ],
        [[piece(0, "", "weather", '{"c":"X"}')], [piece(0, "", "time", '{"z":"Y"}')]],
    ],
)
def test_calls_without_ids_are_kept_apart_by_their_names(deltas: list[list[dict[str, Any]]]) -> None:
    assert [(name, args) for _, name, args in called(*deltas)] == [(name, args) for _, name, args in NO_ID]


def test_two_calls_of_one_function_stay_two() -> None:
    deltas = [[piece(0, "a", "f", '{"x":1}')], [piece(0, "b", "f", '{"x":2}')]]
    assert called(*deltas) == [("a", "f", '{"x":1}'), ("b", "f", '{"x":2}')]


@pytest.mark.parametrize("arguments", [None, ""])
def test_empty_arguments_are_an_empty_object(arguments: str | None) -> None:
    assert called([piece(0, "a", "f", arguments)], [piece(0, "b", "g", arguments)]) == [
        ("a", "f", "{}"),
        ("b", "g", "{}"),
    ]


@pytest.mark.parametrize("arguments", ["", None, "{}", {}])
def test_empty_arguments_of_an_unstreamed_call_are_an_empty_object_in_results(arguments: Any) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = {"object": "chat.completion", "choices": [{"message": {"tool_calls": [call]}}]}
    assert [(one.name, one.arguments) for one in calls_in(orjson.dumps(body))] == [("f", {})]


ARGUMENTS = st.dictionaries(st.text(min_size=1), st.integers() | st.text(), max_size=3).map(
    lambda v: orjson.dumps(v).decode()
)


@given(st.lists(ARGUMENTS, min_size=1, max_size=4), st.integers(1, 9), st.booleans())
def test_any_calls_come_out_as_they_were_cut(arguments: list[str], size: int, by_index: bool) -> None:
    """Whether the calls are told apart by their index, or only by their ids."""
    deltas = []
    for index, text in enumerate(arguments):
        place = index if by_index else 0
        deltas.append([piece(place, f"id{index}", f"f{index}", "")])
        deltas += [[piece(place, None, None, text[at : at + size])] for at in range(0, len(text), size)]
    assert called(*deltas) == [(f"id{index}", f"f{index}", text) for index, text in enumerate(arguments)]
