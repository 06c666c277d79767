"""OpenAI's legacy `/completions`: text that follows a prompt, whole or streamed.

It does not know chat; usage and errors have the dialect's common form, which `openai` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.request import Usage
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.failures import unreadable
from worker.providers.finish import BROKEN_ANSWER, Content, Judged, broken, judged, of_all
from worker.providers.growing import grown
from worker.providers.openai_chat import finish_reason
from worker.providers.replies import at, count, name, objects, storable, table

DEFAULT_MAX_TOKENS = 16
"""How long a completion gets where the body names no bound: the endpoint's own default."""


def answer(body: dict[str, Any], prompts: int, usage: Usage | None, reply: Reply) -> Answer | None:
    """Returns what a body means: the text of its first choice, if all of its choices are whole and none of the `prompts` lacks one.
    None if it has no choice and no usage."""
    choice = at(body, "choices", 0)
    text = at(choice, "text")
    if not isinstance(text, str):
        nothing = unreadable(reply, "the reply tells its usage but holds no choice")
        return None if usage is None else Answer(usage=usage, failure=nothing)
    verdicts = [_judged(one, reply) for one in objects(body.get("choices"))]
    verdict = of_all(verdicts)
    if len(verdicts) < prompts and verdict.failure is None:
        short = f"{prompts} prompts were asked, and {len(verdicts)} answers came"
        verdict = Judged(broken(BROKEN_ANSWER, short, reply))
    finish = finish_reason(choice)
    return Answer(usage, storable(text), finish, name(body.get("model")), verdict.failure, verdict.empty)


def _judged(choice: dict[str, Any], reply: Reply) -> Judged:
    text = choice.get("text")
    content = Content(text if isinstance(text, str) else None, reasoning=bool(choice.get("reasoning")))
    return judged(finish_reason(choice), content, reply)


def add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """Adds one chunk's part of a choice: texts and lists grow."""
    index = count(part.get("index"))
    choice = choices.setdefault(index, {"index": index, "text": "", "logprobs": None, "finish_reason": None})
    if isinstance(text := part.get("text"), str):
        choice["text"] = grown(choice["text"], text)
    if finish_reason(part) is not None:
        choice["finish_reason"] = part["finish_reason"]
    for key, value in table(part.get("logprobs")).items():
        if isinstance(value, list):
            lists = choice["logprobs"] = choice["logprobs"] or {}
            lists.setdefault(key, []).extend(value)


def most_output_tokens(source: Mapping[str, Any]) -> int:
    """The bound on all that a body asks for: on each choice of each prompt, as the endpoint counts them."""
    copies = max(count(source.get("n")), count(source.get("best_of")), 1)
    most = source.get("max_tokens")
    return (DEFAULT_MAX_TOKENS if most is None else count(most)) * copies * prompts_in(source)


def prompts_in(source: Mapping[str, Any]) -> int:
    """Returns how many prompts a body has: a list of token numbers is one."""
    prompts = source.get("prompt")
    if not isinstance(prompts, list) or all(type(one) is int for one in prompts):
        return 1
    return len(prompts)
