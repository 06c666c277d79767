"""The same prompt gets the same answer, whatever the dialect that carries it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.sandbox.conftest import PROVIDERS, Play
from worker.sandbox.replies import compose, prompt_sha
from worker.sandbox.settings import SandboxSettings


@given(st.text(max_size=200), st.text(min_size=1, max_size=20), st.none() | st.integers(1, 60), st.booleans())
def test_a_reply_is_a_pure_function_and_its_tokens_add_up(
    prompt: str, model: str, most: int | None, extras: bool
) -> None:
    settings = SandboxSettings(usage_extras=extras)
    one, two = (compose(prompt, prompt_sha(prompt), model, 1, most, settings) for _ in range(2))
    assert one == two
    usage = one.usage
    assert usage.input == -(-len(prompt) // 4) + 4
    assert usage.cached + usage.cache_write <= usage.input
    assert usage.output - usage.reasoning == len(one.text.split())
    assert usage.output - usage.reasoning >= 1
    assert (one.finish == "length") == (most is not None and usage.output == most and not one.text.endswith("."))
    if most is not None:
        assert usage.output <= most
    assert one.text.startswith(prompt_sha(prompt)[:8])


def test_all_dialects_say_the_same_to_the_same_system_and_user_text(play: Play) -> None:
    played = play()
    system, text = "Be terse.", "What is a lorry?"
    texts = [
        played.ask("openai", messages=[{"role": "system", "content": system}, {"role": "user", "content": text}])
        .json()["choices"][0]["message"]["content"],
        played.ask("gemini", text, systemInstruction={"parts": [{"text": system}]})
        .json()["candidates"][0]["content"]["parts"][0]["text"],
        played.ask("claude", text, system=[{"type": "text", "text": system}]).json()["content"][0]["text"],
    ]  # fmt: skip
    assert len(set(texts)) == 1
    rows = played.rows()
    assert {row["prompt_sha"] for row in rows} == {prompt_sha(f"{system}\n{text}")}
    assert len({(row["input_tokens"], row["output_tokens"]) for row in rows}) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_two_sandboxes_answer_a_body_with_the_same_bytes(play: Play, provider: str) -> None:
    assert play(seed=1).ask(provider).content == play(seed=2, latency=0.001).ask(provider).content


def test_output_tokens_can_be_fixed_and_served_models_renamed(play: Play) -> None:
    played = play(output_tokens=77, served_models={"gpt-4o": "gpt-4o-2024-11-20"})
    body = json.loads(played.ask("openai", model="gpt-4o").content)
    assert body["usage"]["completion_tokens"] == 77
    assert body["model"] == "gpt-4o-2024-11-20"
    assert played.row()["model"] == "gpt-4o"
