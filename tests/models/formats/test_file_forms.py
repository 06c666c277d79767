"""Files that people have: data sets, vendors' batch lines, unknown fields, empty prompts, and whole numbers as pandas writes them."""

import io
import json
from typing import Any

import pytest

from models.config import Config
from models.errors import BadLine
from models.formats.lines import Line, read_lines
from models.formats.outcome import Outcome
from models.formats.reading import EmptyPrompts, LastAnswer, Reading, SkippedLine, UnknownFields, sentence
from models.formats.results import result_line
from models.formats.simple import simple_input
from models.lanes import Lanes

QUESTION = [{"role": "user", "content": "a"}]
EXAMPLE = [*QUESTION, {"role": "assistant", "content": "b"}]


def config(**more: Any) -> Config:
    names = ("openai", "claude", "gemini")
    providers = [{"id": name, "type": name, "keys": [{"id": "k", "secret": "sk-xxxxxxxx"}]} for name in names]
    return Config.model_validate({"providers": providers, **more})


def read(*rows: dict[str, Any], model: str | None = None, keep_bad: bool = False, **choices: Any) -> list[Any]:
    stream = io.BytesIO(b"\n".join(json.dumps(row).encode() for row in rows))
    return list(read_lines(stream, Lanes(config()), model=model, keep_bad=keep_bad, reading=Reading(**choices)))


def one(row: dict[str, Any], **given: Any) -> Line:
    (line,) = read(row, **given)
    assert isinstance(line, Line), line
    return line


def reason(row: dict[str, Any], **given: Any) -> str:
    (line,) = read(row, **given)
    assert isinstance(line, BadLine), line
    return line.reason


def asked(line: Line) -> Any:
    return simple_input(line.body) if line.dialect == "simple" else json.loads(line.body)


def metadata(line: Line) -> Any:
    return json.loads(line.body).get("metadata") if line.dialect == "simple" else json.loads(line.metadata or b"null")


# Data sets


@pytest.mark.parametrize(
    ("row", "prompt", "kept"),
    [
        ({"instruction": "Do", "input": "this", "output": "x"}, "Do\n\nthis", {"output": "x"}),
        ({"instruction": "Do", "input": "", "output": "x", "text": "t"}, "Do", {"output": "x", "text": "t"}),
        (
            {"instruction": "Do", "context": "c", "response": "x", "metadata": {"m": 1}},
            "Do\n\nc",
            {"response": "x", "m": 1},
        ),
        ({"instruction": "Do"}, "Do", None),
    ],
)
def test_an_instruction_is_asked_and_its_answer_carried(row: dict[str, Any], prompt: str, kept: Any) -> None:
    line = one({"id": 7, "max_tokens": 5, **row}, model="gpt-4o")
    assert asked(line) == {"messages": [{"role": "user", "content": prompt}], "max_tokens": 5}
    assert (line.custom_id, metadata(line)) == ("7", kept)
    assert "instruction" in sentence(line.notes[0], 1)


def test_an_instruction_has_a_history_and_a_system() -> None:
    line = one({"instruction": "c", "history": [["a", "b"]], "system": "s", "output": "d"}, model="gpt-4o")
    assert [message["content"] for message in asked(line)["messages"]] == ["s", "a", "b", "c"]


@pytest.mark.parametrize("key", ["from", "role"])
def test_a_conversation_is_asked_without_its_last_answer(key: str) -> None:
    value = "value" if key == "from" else "content"
    people = ("human", "gpt") if key == "from" else ("user", "assistant")
    turns = [{key: people[at % 2], value: text} for at, text in enumerate("abcd")]
    line = one({"id": "x", "conversations": turns}, model="gpt-4o")
    assert [message["content"] for message in asked(line)["messages"]] == ["a", "b", "c"]
    assert metadata(line) == {"answer": "d"}


def test_a_conversation_with_other_speakers_is_refused() -> None:
    assert "conversations[0].from is 'observation'" in reason(
        {"conversations": [{"from": "observation", "value": "x"}]}, model="gpt-4o"
    )


def test_a_training_example_is_refused_unless_its_answer_has_a_place() -> None:
    row = {"messages": EXAMPLE}
    assert "--last-answer drop" in reason(row, model="gpt-4o")
    dropped = one(row, model="gpt-4o", last_answer=LastAnswer.DROP)
    assert (asked(dropped)["messages"], metadata(dropped)) == (QUESTION, {"answer": "b"})
    assert asked(one(row, model="gpt-4o", last_answer=LastAnswer.SEND))["messages"] == EXAMPLE


def test_a_request_may_begin_its_answer() -> None:
    line = one({"id": "x", "messages": EXAMPLE}, model="gpt-4o")
    assert asked(line)["messages"] == EXAMPLE
    assert "beginning of the answer" in sentence(line.notes[0], 1)


@pytest.mark.parametrize("model", ["text-embedding-ada-002", "openai/text-embedding-3-small"])
def test_an_input_for_an_embedding_model_is_embedded(model: str) -> None:
    line = one({"model": model, "input": "0\n", "metadata": {"row_id": 1}})
    assert (line.operation, asked(line), metadata(line)) == ("embeddings", {"input": "0\n"}, {"row_id": 1})
    assert one({"input": ["a", "b"]}, model=model).operation == "embeddings"


def test_a_prompt_for_an_embedding_model_is_refused() -> None:
    assert '{"embed": "…"}' in reason({"prompt": "a"}, model="text-embedding-3-small")
    assert "/v1/embeddings" in reason({"input": [1, 2]}, model="text-embedding-3-small")


@pytest.mark.parametrize("row", [{"question": "q", "answer": "a"}, {"text": "t"}, {"subject": "s", "body": "b"}])
def test_other_columns_are_refused_with_the_way_out(row: dict[str, Any]) -> None:
    assert ".prompt = ." in reason(row, model="gpt-4o")


# Vendors' batch lines


@pytest.mark.parametrize(
    "url",
    [
        "/chat/completions",
        "/v1/chat/completions",
        "/v4/chat/completions",
        "/openai/deployments/gpt-4o/chat/completions?api-version=2",
    ],
)
def test_urls_of_other_vendors_are_read(url: str) -> None:
    body = {"messages": QUESTION} if "deployments" in url else {"messages": QUESTION, "model": "gpt-4o"}
    line = one({"custom_id": "x", "method": "POST", "url": url, "body": body})
    assert (line.dialect, line.operation, line.model, json.loads(line.body)) == ("openai", "chat", "gpt-4o", body)


def test_a_url_with_a_host_is_refused() -> None:
    row = {
        "custom_id": "x",
        "method": "POST",
        "url": "https://a.example/v1/chat/completions",
        "body": {"messages": QUESTION},
    }
    assert "names a host" in reason(row, model="gpt-4o")


@pytest.mark.parametrize(
    ("body", "operation"),
    [
        ({"messages": QUESTION}, "chat"),
        ({"prompt": "a"}, "completions"),
        ({"input": "a", "model": "text-embedding-3-small"}, "embeddings"),
    ],
)
def test_lines_without_a_url_are_read_by_their_body(body: dict[str, Any], operation: str) -> None:
    line = one({"custom_id": "0", "body": {"model": "gpt-4o", **body}})
    assert (line.custom_id, line.dialect, line.operation) == ("0", "openai", operation)
    assert "url is missing" in reason({"custom_id": "0", "body": {"model": "gpt-4o", "input": "a"}})


@pytest.mark.parametrize(("id_field", "form"), [("recordId", "modelInput"), ("custom_id", "request")])
def test_a_clouds_lines_for_claude_go_without_their_version(id_field: str, form: str) -> None:
    request = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 10, "messages": QUESTION}
    line = one({id_field: "R1", form: request, "row": 3}, model="claude-haiku-4-5")
    assert (line.custom_id, line.dialect) == ("R1", "claude")
    assert json.loads(line.body) == {"max_tokens": 10, "messages": QUESTION}
    assert metadata(line) == {"row": 3}


def test_bedrocks_lines_for_other_models_are_refused() -> None:
    assert "no request for a Claude model" in reason({"recordId": "R", "modelInput": {"inputText": "x"}}, model="m")


def test_a_vertex_line_keeps_its_own_id() -> None:
    line = one({"id": "r", "request": {"contents": [{"parts": [{"text": "a"}]}]}}, model="gemini-3.5-flash")
    assert (line.custom_id, line.dialect) == ("r", "gemini")


# Unknown fields


def test_an_unknown_field_is_not_sent_unasked() -> None:
    row = {"prompt": "a", "label": "x", "temperature": 0, "top_k": 3, "empty": None}
    assert "unknown field 'label'" in reason(row, model="gpt-4o")
    carried = one(row, model="gpt-4o", unknown_fields=UnknownFields.METADATA)
    assert (set(asked(carried)), metadata(carried)) == ({"messages", "temperature", "top_k"}, {"label": "x"})
    assert asked(one(row, model="gpt-4o", unknown_fields=UnknownFields.SEND))["label"] == "x"
    assert "did you mean 'temperature'" in reason({"prompt": "a", "temprature": 1}, model="gpt-4o")


def test_extra_body_holds_nothing_that_caps_go_by() -> None:
    assert one({"prompt": "a", "extra_body": {"new": 1, "provider": {"sort": "price"}}}, model="gpt-4o")
    for inside in ({"max_tokens": 9}, {"generationConfig": {"maxOutputTokens": 9}}, {"stream": True}):
        assert "belongs beside it" in reason({"prompt": "a", "extra_body": inside}, model="gpt-4o")


# Empty prompts

EMPTY = [
    {"prompt": " \n"},
    {"prompt": None},
    {"system": "s", "prompt": ""},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": ""}]},
    {"messages": [*EXAMPLE, {"role": "user", "content": [{"type": "text", "text": " "}]}]},
    {"embed": ["a", " "]},
    {"instruction": "", "input": ""},
    {"custom_id": "o", "method": "POST", "url": "/v1/responses", "body": {"input": ""}},
    {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": ["a", ""]}},
    {"custom_id": "c", "params": {"max_tokens": 5, "messages": [{"role": "user", "content": "\t"}]}},
    {"key": "g", "request": {"contents": [{"role": "user", "parts": [{"text": ""}]}]}},
]


@pytest.mark.parametrize("row", EMPTY)
def test_an_empty_prompt_fails_or_is_skipped(row: dict[str, Any]) -> None:
    assert any(word in reason(row, model="gpt-4o", keep_bad=False) for word in ("empty", "has none of"))
    assert isinstance(read(row, model="gpt-4o", empty_prompts=EmptyPrompts.SKIP)[0], SkippedLine)


def test_an_empty_prompt_is_asked_where_that_is_chosen() -> None:
    line = one({"prompt": " "}, model="gpt-4o", empty_prompts=EmptyPrompts.ASK)
    assert asked(line)["messages"] == [{"role": "user", "content": " "}]


@pytest.mark.parametrize(
    "row",
    [
        {"id": "x", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        {"messages": [{"role": "system", "content": "Say hi."}]},
        {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": {"prompt": {"id": "pmpt_1"}}},
    ],
)
def test_a_question_without_text_is_none_of_these(row: dict[str, Any]) -> None:
    assert one(row, model="gpt-4o")


def test_skipped_lines_take_no_id() -> None:
    lines = read({"id": "a", "prompt": ""}, {"id": "a", "prompt": "x"}, model="gpt-4o", empty_prompts=EmptyPrompts.SKIP)
    assert [type(line) for line in lines] == [SkippedLine, Line]


# Whole numbers, ids, blank lines


@pytest.mark.parametrize(
    ("row", "model", "sent"),
    [
        (
            {"prompt": "a", "max_tokens": 5.0, "seed": 1.0, "temperature": 1.0},
            "gpt-4o",
            b'"max_tokens":5,"seed":1,"temperature":1.0',
        ),
        ({"custom_id": "a", "body": {"messages": QUESTION, "max_tokens": 5.0}}, "gpt-4o", b'"max_tokens":5}'),
        (
            {"custom_id": "a", "params": {"messages": QUESTION, "max_tokens": 5.0, "top_k": 2.0}},
            "claude-x",
            b'"max_tokens":5,"top_k":2}',
        ),
        (
            {"request": {"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"maxOutputTokens": 5.0}}},
            "gemini-x",
            b'"generationConfig":{"maxOutputTokens":5}',
        ),
    ],
)
def test_a_whole_number_written_as_a_float_is_one(row: dict[str, Any], model: str, sent: bytes) -> None:
    assert sent in one(row, model=model).body


def test_a_fraction_is_no_whole_number() -> None:
    assert "max_tokens must be a positive whole number, not 5.5" in reason(
        {"prompt": "a", "max_tokens": 5.5}, model="gpt-4o"
    )


@pytest.mark.parametrize("own", ["null", "true", "007", "1.0", "1e3", "NaN", " a ", "line-9", "é", 12, -3])
@pytest.mark.parametrize("dialect", ["simple", "openai", "claude", "gemini"])
def test_an_id_comes_back_as_it_was_written(own: str | int, dialect: str) -> None:
    row = {
        "simple": {"id": own, "model": "gpt-4o", "prompt": "a"},
        "openai": {"custom_id": own, "body": {"model": "gpt-4o", "messages": QUESTION}},
        "claude": {"custom_id": own, "params": {"model": "claude-x", "max_tokens": 5, "messages": QUESTION}},
        "gemini": {"key": own, "request": {"model": "gemini-x", "contents": [{"parts": [{"text": "a"}]}]}},
    }[dialect]
    line = one(row)
    outcome = Outcome(line.custom_id, dialect, "failed", line.body, error_code="x", error_message="y")
    written = json.loads(result_line(outcome))
    name = {"simple": "id", "gemini": "key"}.get(dialect, "custom_id")
    assert written[name] == (own if dialect == "simple" else str(own))  # a vendor's ids are texts
