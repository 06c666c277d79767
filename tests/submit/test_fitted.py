"""What keeps a batch, on a terminal: a provider's long words on a key are cut, what to do is not."""

from __future__ import annotations

from submit.lines import fitted

LONG = "refused: " + "the provider goes on and on " * 10
AGAIN = " (tried again at 12:31, or replace the secret)"


def test_each_keys_reason_is_cut_and_when_it_is_tried_again_stays() -> None:
    said = fitted(f"no usable key: openai/a: {LONG}{AGAIN}; claude/b: {LONG}; gemini/c: quota", 80)
    first, second, third = said.split("; ")
    assert first.startswith("no usable key: openai/a: refused")
    assert first.endswith(f"…{AGAIN}")
    assert second.startswith("claude/b: refused: the provider")
    assert second.endswith("…")
    assert (len(first), len(second), third) == (80, 80, "gemini/c: quota")


def test_other_sentences_and_what_is_for_no_terminal_stay_whole() -> None:
    advice = "no live worker serves openai: " + "start one " * 20
    assert fitted(advice, 40) == advice
    assert fitted(f"no usable key: openai/a: {LONG}", None).endswith(LONG)
