"""The vendors' own SDKs at the sandbox: their types, told to be strict, must take all that it answers.

What our providers send is held to the same types in tests/worker/providers/test_sdk_types.py.
"""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors

from tests.worker.sandbox.conftest import KEY, Play, Played

pytestmark = pytest.mark.full

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION: Any = {"name": "get_w", "description": "d", "parameters": SCHEMA, "strict": True}
HI: Any = [{"role": "user", "content": "hi"}]
GEMINI = "gemini-3.5-flash"
CLAUDE = "claude-haiku-4-5"


def openai_at(played: Played, *, strict: bool = True) -> openai.OpenAI:
    return openai.OpenAI(
        api_key=KEY,
        base_url=f"{played.box.url}/openai/v1",
        max_retries=0,
        http_client=httpx2.Client(trust_env=False),
        _strict_response_validation=strict,
    )


def claude_at(played: Played) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        api_key=KEY,
        base_url=f"{played.box.url}/claude",
        max_retries=0,
        http_client=httpx2.Client(trust_env=False),
        _strict_response_validation=True,
    )


def gemini_at(played: Played) -> genai.Client:
    options: Any = {
        "base_url": f"{played.box.url}/gemini",
        "api_version": "v1",
        "httpx_client": httpx2.Client(trust_env=False, timeout=60),
    }
    return genai.Client(api_key=KEY, http_options=options)


def billed(played: Played) -> tuple[int, int]:
    row = played.row()
    return row["input_tokens"], row["output_tokens"]


def test_openai_chat(play: Play) -> None:
    played = play(usage_extras=True)
    whole = openai_at(played).chat.completions.create(model="gpt-4o", messages=HI, service_tier="flex")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == billed(played)
    chunks = list(
        openai_at(played).chat.completions.create(
            model="gpt-4o", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_openai_chat_calls_and_schemas(play: Play) -> None:
    ask = openai_at(play()).chat.completions.create
    options: Any = {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}
    called = ask(model="gpt-4o", messages=HI, **options).choices[0].message.tool_calls
    assert called is not None
    assert called[0].type == "function"
    assert set(json.loads(called[0].function.arguments)) == {"city"}
    chunks = [chunk.choices[0].delta for chunk in ask(model="gpt-4o", messages=HI, stream=True, **options)]
    parts = [part.function.arguments for delta in chunks for part in delta.tool_calls or [] if part.function]
    assert "".join(part or "" for part in parts) == called[0].function.arguments
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    said = ask(model="gpt-4o", messages=HI, response_format=form).choices[0].message.content
    assert set(json.loads(said or "")) == {"city"}


def test_openai_responses_calls_and_schemas(play: Play) -> None:
    ask = openai_at(play()).responses.create
    options: Any = {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"}
    whole = ask(model="gpt-5.4-mini", input="hi", **options)
    (call,) = whole.output
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"city"}
    events = list(ask(model="gpt-5.4-mini", input="hi", stream=True, **options))
    parts = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(parts) == call.arguments
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output == whole.output
    form: Any = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}
    assert set(json.loads(ask(model="gpt-5.4-mini", input="hi", text=form).output_text)) == {"city"}
    results: Any = [*HI, call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    assert ask(model="gpt-5.4-mini", input=results, tools=options["tools"]).status == "completed"


def test_an_organization_of_another_is_the_sdks_own_error(play: Play) -> None:
    played = play(accounts=[{"provider": "openai", "key": KEY, "organization": "org-a"}])
    with pytest.raises(openai.AuthenticationError) as refused:
        openai_at(played).with_options().chat.completions.create(
            model="gpt-4o", messages=HI, extra_headers={"OpenAI-Organization": "org-b"}
        )
    assert refused.value.code == "mismatched_organization"


def test_openai_responses(play: Play) -> None:
    played = play(usage_extras=True)
    whole = openai_at(played).responses.create(model="gpt-5.4-mini", instructions="Be brief.", input="hi")
    assert (whole.status, bool(whole.output_text)) == ("completed", True)
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == billed(played)
    events = list(
        openai_at(played).responses.create(model="gpt-5.4-mini", instructions="Be brief.", input="hi", stream=True)
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == whole.output_text


@pytest.mark.parametrize("kind", ["error_in_200", "content_filter"])
def test_openai_responses_that_end_badly(play: Play, kind: str) -> None:
    played = play(faults=[{"kind": kind}])
    response = openai_at(played).responses.create(model="gpt-5.4-mini", input="hi")
    assert response.status == ("failed" if kind == "error_in_200" else "incomplete")
    *_, last = openai_at(played).responses.create(model="gpt-5.4-mini", input="hi", stream=True)
    assert last.type == f"response.{response.status}"


def test_openai_completions(play: Play) -> None:
    played = play()
    whole = openai_at(played).completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", n=2)
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == billed(played)
    # the SDK has no type of its own for a chunk, whose finish_reason is null until the last
    lenient = openai_at(played, strict=False)
    chunks = lenient.completions.create(model="gpt-3.5-turbo-instruct", prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_openai_embeddings(play: Play, form: Any) -> None:
    played = play()
    options = {"encoding_format": form} if form else {}
    # vectors as base64 are turned into numbers after the strict check, which wants numbers
    reply = openai_at(played, strict=form == "float").embeddings.create(
        model="text-embedding-3-small", input=["a", "b"], dimensions=8, **options
    )
    assert [entry.index for entry in reply.data] == [0, 1]
    assert reply.usage.prompt_tokens == billed(played)[0]


def test_openai_models_and_errors(play: Play) -> None:
    played = play(retirements={"gpt-4o": "2027-01-14"})
    models = {model.id: model.shutdown_date for model in openai_at(played).models.list()}
    assert models["gpt-4o"] == "2027-01-14"
    assert models["gpt-4o-mini"] is None
    played.faults({"kind": "rate_limit"})
    with pytest.raises(openai.RateLimitError) as refused:
        openai_at(played).chat.completions.create(model="gpt-4o", messages=HI)
    assert refused.value.code == "rate_limit_exceeded"


def test_claude_messages(play: Play) -> None:
    played = play(usage_extras=True)
    whole = claude_at(played).messages.create(model=CLAUDE, max_tokens=64, messages=HI)
    given = (whole.usage.cache_creation_input_tokens or 0) + (whole.usage.cache_read_input_tokens or 0)
    assert (whole.usage.input_tokens + given, whole.usage.output_tokens) == billed(played)
    with claude_at(played).messages.stream(model=CLAUDE, max_tokens=64, messages=HI) as stream:
        last = stream.get_final_message()
    assert last.content[0].type == "text"
    assert whole.content[0].type == "text"
    assert last.content[0].text == whole.content[0].text
    assert last.usage.output_tokens == whole.usage.output_tokens


def test_claude_calls_schemas_thinking_and_documents(play: Play) -> None:
    ask: Any = claude_at(play()).messages
    tool = {"name": "get_w", "description": "d", "input_schema": SCHEMA, "strict": True}
    options: Any = {"model": CLAUDE, "max_tokens": 2000, "tools": [tool], "tool_choice": {"type": "any"}}
    (block,) = ask.create(messages=HI, **options).content
    assert (block.type, set(block.input)) == ("tool_use", {"city"})
    with ask.stream(messages=HI, **options) as stream:
        assert stream.get_final_message().content[0].input == block.input
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "rain"}
    sent = [*HI, {"role": "assistant", "content": [block.model_dump()]}, {"role": "user", "content": [result]}]
    assert ask.create(model=CLAUDE, max_tokens=64, messages=sent, tools=[tool]).stop_reason == "end_turn"
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    said = ask.create(model=CLAUDE, max_tokens=64, messages=HI, output_config=form).content[0].text
    assert set(json.loads(said)) == {"city"}
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    sent = [{"role": "user", "content": [document, {"type": "text", "text": "What?"}]}]
    thinking = {"type": "adaptive"}
    assert ask.create(model="claude-sonnet-5-5", max_tokens=2000, messages=sent, thinking=thinking).content


def test_claude_refusals_models_and_errors(play: Play) -> None:
    played = play(models={"claude": [f"m-{n}" for n in range(45)]}, retirements={"m-44": "2027-01-14T00:00:00Z"})
    models = list(claude_at(played).models.list(limit=20))
    assert [model.id for model in models] == [f"m-{n}" for n in range(45)]
    assert [model.id for model in models if model.retires_at] == ["m-44"]
    played.faults({"kind": "content_filter"})
    refusal = claude_at(played).messages.create(model=CLAUDE, max_tokens=64, messages=HI)
    assert refusal.stop_reason == "refusal"
    played.faults({"kind": "overloaded"})
    with pytest.raises(anthropic.APIStatusError) as refused:
        claude_at(played).messages.create(model=CLAUDE, max_tokens=64, messages=HI)
    assert refused.value.status_code == 529


def test_gemini_content(play: Play) -> None:
    played = play(usage_extras=True)
    whole = gemini_at(played).models.generate_content(model=GEMINI, contents="hi")
    usage = whole.usage_metadata
    assert usage is not None
    told = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    assert (usage.prompt_token_count, told) == billed(played)
    chunks = gemini_at(played).models.generate_content_stream(model=GEMINI, contents="hi")
    assert "".join(chunk.text or "" for chunk in chunks) == whole.text


def test_gemini_calls_and_schemas(play: Play) -> None:
    ask = gemini_at(play()).models.generate_content
    declared = {"name": "get_w", "description": "d", "parameters_json_schema": SCHEMA}
    options: Any = {
        "tools": [{"function_declarations": [declared]}],
        "tool_config": {"function_calling_config": {"mode": "ANY"}},
        "automatic_function_calling": {"disable": True},
    }
    called = ask(model=GEMINI, contents="hi", config=options)
    (call,) = called.function_calls or []
    assert (call.name, set(call.args or {})) == ("get_w", {"city"})
    assert called.candidates
    turns: Any = [
        {"role": "user", "parts": [{"text": "hi"}]},
        called.candidates[0].content,
        {"role": "user", "parts": [{"function_response": {"name": "get_w", "response": {"sky": "grey"}}}]},
    ]
    assert ask(model=GEMINI, contents=turns, config={"tools": options["tools"]}).text
    form: Any = {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
    assert set(json.loads(ask(model=GEMINI, contents="hi", config=form).text or "")) == {"city"}
    more: Any = {"thinking_config": {"thinking_level": "low"}, "tools": [{"google_search": {}}, {"code_execution": {}}]}
    assert ask(model=GEMINI, contents="hi", config=more).text


def test_gemini_embeddings_models_and_errors(play: Play) -> None:
    played = play()
    reply = gemini_at(played).models.embed_content(
        model="gemini-embedding-001", contents=["a", "b"], config={"output_dimensionality": 8}
    )
    assert [len(entry.values or []) for entry in reply.embeddings or []] == [8, 8]
    assert reply.usage_metadata is not None
    assert reply.usage_metadata.prompt_token_count == billed(played)[0]
    names = [model.name for model in gemini_at(played).models.list(config={"page_size": 1})]
    assert f"models/{GEMINI}" in names
    played.faults({"kind": "rate_limit"})
    with pytest.raises(errors.ClientError) as refused:
        gemini_at(played).models.generate_content(model=GEMINI, contents="hi")
    assert (refused.value.code, refused.value.status) == (429, "RESOURCE_EXHAUSTED")
