"""What played models do beside their answers: thoughts, searches, code, reads and writes of the cache, as the vendors' SDKs read them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.sandbox.conftest import Play, Played
from tests.worker.sandbox.test_sdks import GEMINI, HI, billed, claude_at, gemini_at, openai_at
from worker.sandbox.caches import Mark, PromptCache, Share

SEARCH: Any = {"type": "web_search_20250305", "name": "web_search"}
LONG = "word " * 1200
"""Some 1,500 tokens: enough for the cache."""


def fees(played: Played) -> dict[str, int]:
    told = played.row()["fees"]
    assert isinstance(told, dict)
    return told


def test_gemini_searches_and_says_where_its_answer_comes_from(play: Play) -> None:
    played = play()
    config: Any = {"tools": [{"google_search": {}}]}
    whole = gemini_at(played).models.generate_content(model=GEMINI, contents="hi", config=config)
    assert whole.candidates
    told = whole.candidates[0].grounding_metadata
    assert told is not None
    assert told.web_search_queries
    assert [chunk.web.uri for chunk in told.grounding_chunks or [] if chunk.web]
    assert [support.segment.text for support in told.grounding_supports or [] if support.segment] == [whole.text]
    assert fees(played) == {"web_search_requests": len(told.web_search_queries)}
    usage = whole.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0) == billed(played)[0]
    *_, last = gemini_at(played).models.generate_content_stream(model=GEMINI, contents="hi", config=config)
    assert last.candidates
    assert last.candidates[0].grounding_metadata == told
    gemini_at(played).models.generate_content(model="gemini-2.5-flash", contents="hi", config=config)
    assert fees(played) == {"web_search_requests": 1}  # by the answer, before Gemini 3


def test_gemini_runs_code_and_shows_it(play: Play) -> None:
    played = play()
    config: Any = {"tools": [{"code_execution": {}}]}
    whole = gemini_at(played).models.generate_content(model=GEMINI, contents="hi", config=config)
    one, _, other = str(whole.executable_code)[6:-1].partition(" * ")
    assert whole.code_execution_result == f"{int(one) * int(other)}\n"
    chunks = list(gemini_at(played).models.generate_content_stream(model=GEMINI, contents="hi", config=config))
    assert [chunk.executable_code for chunk in chunks if chunk.executable_code] == [whole.executable_code]
    assert fees(played) == {}


@pytest.mark.parametrize(("budget", "thinks"), [(0, False), (512, True)])
def test_gemini_thinks_as_far_as_it_is_told_to(play: Play, budget: int, thinks: bool) -> None:
    played = play()
    config: Any = {"thinking_config": {"thinking_budget": budget, "include_thoughts": True}}
    whole = gemini_at(played).models.generate_content(model=GEMINI, contents="hi", config=config)
    assert whole.candidates
    assert whole.candidates[0].content
    parts = whole.candidates[0].content.parts or []
    assert [bool(part.thought) for part in parts] == ([True, False] if thinks else [False])
    assert whole.usage_metadata is not None
    assert (whole.usage_metadata.thoughts_token_count or 0) == played.row()["reasoning_tokens"]
    assert bool(played.row()["reasoning_tokens"]) is thinks


def test_gemini_tells_what_of_a_prompt_is_no_text(play: Play) -> None:
    image: Any = {"inline_data": {"mime_type": "image/png", "data": "AAAA"}}
    sound: Any = {"file_data": {"mime_type": "audio/mp3", "file_uri": "gs://bucket/a.mp3"}}
    whole = gemini_at(play()).models.generate_content(model=GEMINI, contents=[image, sound, "What?"])
    assert whole.usage_metadata is not None
    told = {one.modality: one.token_count or 0 for one in whole.usage_metadata.prompt_tokens_details or []}
    assert {str(kind).rpartition(".")[2] for kind in told} == {"TEXT", "IMAGE", "AUDIO"}
    assert sum(told.values()) == whole.usage_metadata.prompt_token_count


@pytest.mark.parametrize(
    ("model", "thinking", "readable"),
    [
        ("claude-haiku-4-5", {"type": "enabled", "budget_tokens": 1024}, True),
        ("claude-haiku-4-5", {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, False),
        ("claude-sonnet-5-5", {"type": "adaptive"}, False),
        ("claude-sonnet-5-5", {"type": "adaptive", "display": "summarized"}, True),
    ],
)
def test_claude_thinks_and_signs_its_thoughts(play: Play, model: str, thinking: Any, readable: bool) -> None:
    played = play()
    ask: Any = claude_at(played).messages
    options: Any = {"model": model, "max_tokens": 2000, "messages": HI, "thinking": thinking}
    thought, text = ask.create(**options).content
    assert (thought.type, text.type) == ("thinking", "text")
    assert thought.signature
    assert bool(thought.thinking) is readable
    with ask.stream(**options) as stream:
        last = stream.get_final_message()
    assert [block.to_dict() for block in last.content] == [thought.to_dict(), text.to_dict()]
    assert last.usage.output_tokens_details.thinking_tokens == played.row()["reasoning_tokens"] > 0
    turns = [*HI, {"role": "assistant", "content": [thought.to_dict(), text.to_dict()]}, *HI]
    assert ask.create(**{**options, "messages": turns}).content


def test_claude_searches_the_web_and_cites_it(play: Play) -> None:
    played = play()
    ask: Any = claude_at(played).messages
    options: Any = {"model": "claude-haiku-4-5", "max_tokens": 2000, "messages": HI, "tools": [SEARCH]}
    whole = ask.create(**options)
    *searches, text = whole.content
    assert {block.type for block in searches} == {"server_tool_use", "web_search_tool_result"}
    assert [cited.url for cited in text.citations] == [
        block.content[0].url for block in searches if block.type == "web_search_tool_result"
    ]
    assert fees(played) == {"web_search_requests": whole.usage.server_tool_use.web_search_requests}
    assert whole.usage.input_tokens == billed(played)[0]
    with ask.stream(**options) as stream:
        last = stream.get_final_message()
    assert [block.to_dict() for block in last.content] == [block.to_dict() for block in whole.content]
    assert last.usage.server_tool_use == whole.usage.server_tool_use


def test_claude_writes_what_is_marked_to_its_cache_and_reads_it_from_then_on(play: Play) -> None:
    played = play()

    def ask(question: str, ttl: str = "5m", model: str = "claude-haiku-4-5", text: str = LONG) -> tuple[int, int, int]:
        mark: Any = {"type": "ephemeral", "ttl": ttl}
        usage = (
            claude_at(played)
            .messages.create(
                model=model,
                max_tokens=64,
                system=[{"type": "text", "text": text, "cache_control": mark}],
                messages=[{"role": "user", "content": question}],
            )
            .usage
        )
        assert usage.cache_creation is not None
        read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
        assert usage.input_tokens + read + written == billed(played)[0]
        assert (played.row()["cached_tokens"], played.row()["cache_write_tokens"]) == (read, written)
        return read, written, usage.cache_creation.ephemeral_1h_input_tokens

    size = len(LONG) // 4 + 4
    assert ask("One?") == (0, size, 0)
    assert ask("Two?") == (size, 0, 0)
    assert ask("Three?", model="claude-sonnet-5-5", ttl="1h") == (0, size, size)
    assert ask("Four?", text="too short") == (0, 0, 0)
    played.faults({"kind": "overloaded", "times": 1})
    with pytest.raises(Exception, match="Overloaded"):
        ask("Five?", text=f"another {LONG}")
    assert ask("Five?", text=f"another {LONG}")[0] == 0  # who gets no answer has written nothing


def test_a_cache_forgets_in_time_and_a_read_starts_its_time_anew() -> None:
    cache, mark, longer = PromptCache(), Mark("a", 2000), Mark("b", 3000, for_hour=True)
    assert cache.share("me", [mark, longer], 0) == Share(0, 3000, 1000)
    cache.keep("me", [mark], 0)
    assert cache.share("me", [mark, longer], 299) == Share(2000, 1000, 1000)
    assert cache.share("you", [mark], 299) == Share(0, 2000, 0)
    cache.keep("me", [mark], 299)
    assert cache.share("me", [mark], 500) == Share(2000)
    assert cache.share("me", [mark], 600) == Share(0, 2000)


def test_openai_reasons_searches_and_runs_code(play: Play) -> None:
    played = play()
    options: Any = {
        "model": "gpt-5.4-mini",
        "input": "hi",
        "reasoning": {"effort": "low", "summary": "auto"},
        "tools": [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}],
    }
    ask: Any = openai_at(played).responses.create
    whole = ask(**options)
    kinds = [item.type for item in whole.output]
    searches = kinds.count("web_search_call")
    assert kinds == ["reasoning", *["web_search_call"] * searches, "code_interpreter_call", "message"]
    assert whole.output[0].summary[0].text
    assert [cited.type for cited in whole.output[-1].content[0].annotations] == ["url_citation"] * searches
    assert fees(played) == {"web_search_requests": searches, "code_interpreter_sessions": 1}
    assert whole.usage.output_tokens_details.reasoning_tokens == played.row()["reasoning_tokens"] > 0
    *_, last = ask(**options, stream=True)
    assert last.response.output == whole.output


def test_a_searching_chat_model_cites_and_one_without_effort_does_not_reason(play: Play) -> None:
    played = play()
    ask: Any = openai_at(played).chat.completions.create
    reply = ask(model="gpt-5-search-api", messages=HI, web_search_options={})
    assert reply.choices[0].message.annotations[0].type == "url_citation"
    assert fees(played) == {"web_search_requests": 1}
    ask(model="gpt-5.4-mini", messages=HI, reasoning_effort="none")
    assert (fees(played), played.row()["reasoning_tokens"]) == ({}, 0)
    chunks = list(ask(model="gpt-5.4-mini", messages=HI, reasoning_effort="high", service_tier="flex", stream=True))
    assert played.row()["reasoning_tokens"] > 0
    assert {chunk.service_tier for chunk in chunks} == {"flex"}
