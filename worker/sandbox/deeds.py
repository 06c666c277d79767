"""What a played model does on its way to an answer: it thinks, searches the web, runs code. All of it made from the call's digest.

It knows no dialect: each one says in its own form what was done.
"""

from dataclasses import dataclass, replace

from worker.sandbox.replies import WORDS, Reply, dice, words

_SEARCH_TOKENS = 20
_CODE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Wants:
    """What a call switches on.

    `thinks`: whether the model reasons; None leaves it to the sandbox's settings. `shown`: its thoughts can be read.
    `once`: searches are billed by the answer, not by the query. `rents`: code runs in a container that is billed.
    """

    thinks: bool | None = None
    shown: bool = False
    searches: bool = False
    runs_code: bool = False
    once: bool = False
    rents: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A page that a search found."""

    url: str
    title: str


def performed(reply: Reply, wants: Wants) -> Reply:
    """The reply with thoughts, searches and code, and what these cost: what tools found is read as input, uses are fees.

    One that calls a tool of the caller's does nothing more.
    """
    if reply.finish == "filter" or not (wants.thinks or wants.searches or wants.runs_code):
        return reply
    if wants.thinks:
        thought = words(f"thought {reply.digest}", reply.usage.reasoning // reply.copies) if wants.shown else ""
        reply = replace(reply, thinks=True, thought=thought)
    if reply.call:
        return reply
    rolls, fees, tool = dice(f"deeds {reply.digest}", 8), dict(reply.usage.fees), 0
    if wants.searches:
        queries = tuple(f"{WORDS[rolls[at]]} {WORDS[rolls[at + 1]]}" for at in range(0, 2 + 2 * (rolls[7] % 2), 2))
        reply = replace(reply, queries=queries)
        fees["web_search_requests"] = 1 if wants.once else len(queries)
        tool += _SEARCH_TOKENS * len(queries)
    if wants.runs_code:
        one, other = 2 + rolls[5], 2 + rolls[6]
        reply = replace(reply, code=(f"print({one} * {other})", f"{one * other}\n"))
        tool += _CODE_TOKENS
        fees |= {"code_interpreter_sessions": 1} if wants.rents else {}
    usage = replace(reply.usage, input=reply.usage.input + tool, tool=tool, fees=tuple(fees.items()))
    return replace(reply, usage=usage)


def found(query: str) -> Source:
    """The page that a query finds."""
    return Source(f"https://example.com/{query.replace(' ', '/')}", query.title())


def signature(reply: Reply) -> str:
    """What a provider signs thoughts with."""
    return f"{reply.digest}{reply.digest}"
