"""What a played provider must be able to do: read a request, word its answers, say what a call charges.

No sockets, no clocks, no quotas: a dialect turns values into bytes and back.
"""

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import orjson

from worker.sandbox.caches import Mark
from worker.sandbox.deeds import Wants
from worker.sandbox.quotas import Denial, Holder, Standing
from worker.sandbox.replies import Reply, Usage, prompt_sha, prompt_text
from worker.sandbox.samples import Shape
from worker.sandbox.settings import Fault, ProviderName, SandboxSettings
from worker.sandbox.wire import JSON, Request

MEBIBYTE = 1024 * 1024
PIECES = 6
HUGE = 10**12
"""What a lie about tokens adds: no call takes so many, and still it is a number like others."""
_NO_WANTS = Wants()
_ENDS = re.compile(rb'"(finish_reason|finishReason|stop_reason)": ?"|"type": ?"response\\.(completed|incomplete)"')


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a call for embeddings asks for: a vector of so many numbers for each text, as a list or as base64; `single`: not in a list."""

    texts: tuple[str, ...]
    dimensions: int
    base64: bool = False
    single: bool = False


@dataclass(frozen=True, slots=True)
class Chat:
    """A valid call for text, or for vectors. `sha` names `prompt`, its text in any dialect; `copies` is how many choices it asks for.

    `operation` is the endpoint's name where a provider has several; `tier` what serves the call. `wants` is what it switches on,
    `marks` are the beginnings to remember, shortest first, `media` the tokens that aren't text.
    """

    model: str
    prompt: str
    sha: str
    messages: int
    max_tokens: int | None = None
    stream: bool = False
    copies: int = 1
    stream_usage: bool = True
    framed: bool = True  # False: a streamed JSON array instead of server-sent events
    operation: str = "chat"
    tier: str = "default"
    vectors: Vectors | None = None
    shape: Shape | None = None
    wants: Wants = _NO_WANTS
    marks: tuple[Mark, ...] = ()
    media: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """A valid question for the list of models, or for one of them; for `most` of the list from `begin` on."""

    model: str | None = None
    begin: int = 0
    most: int = 1000
    retirements: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it goes out; `headers` are whole header lines."""

    status: int
    body: bytes
    headers: bytes = b""
    content_type: bytes = JSON


class Refusal(Exception):
    """A request the provider turns down; carries the answer in the provider's own words."""

    def __init__(self, answer: Answer, model: str | None = None) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer
        self.model = model


class Dialect(Protocol):
    """One provider's way to speak."""

    name: ProviderName
    max_body: int
    refusals_count: bool  # whether a refused request is charged to the limit all the same
    cache_writes: bool  # whether usage tells of tokens written to a cache

    def secret(self, request: Request) -> str | None:
        """The key a request carries, None without one."""

    def read(self, request: Request, settings: SandboxSettings) -> Chat | Listing:
        """Check a request; raises Refusal in the provider's words (wrong path, body, model)."""

    def stranger(self, secret: str | None) -> Answer:
        """To a request without a key, or with one that is not accepted."""

    def misaddressed(self, request: Request, holder: Holder) -> Answer | None:
        """To a request that names another account than its key's; None if it names none, or the key's."""

    def too_large(self) -> Answer:
        """To a body over the size limit."""

    def denied(self, denial: Denial, model: str) -> Answer:
        """To a call over a rate limit."""

    def failure(self, fault: Fault, model: str) -> Answer:
        """The HTTP error a fault asks for."""

    def listing(self, names: list[str], asked: Listing) -> Answer:
        """The list of models, a page of it, or one of them."""

    def whole(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> bytes:
        """The body of a reply that is not streamed; `spoilt` is how its usage block lies (Fault.usage)."""

    def events(self, chat: Chat, reply: Reply, spoilt: str | None = None) -> list[bytes]:
        """The events of a streamed reply; the last one is its end marker."""

    def error_in_200(self, chat: Chat, fault: Fault) -> bytes:
        """The body of a 200 that tells a failure."""

    def error_event(self, chat: Chat, fault: Fault) -> bytes:
        """A server error in the middle of a stream."""

    def filtered(self, reply: Reply) -> Reply:
        """The reply when the content filter stopped it."""

    def headers(self, standing: Standing) -> bytes:
        """Header lines of every answer to an accepted key."""

    def charge(self, chat: Chat, usage: Usage) -> tuple[int, int]:
        """Tokens booked on the limit when a call arrives, and when its reply is done."""


def chat(
    model: str,
    texts: list[str],
    max_tokens: int | None,
    *,
    stream: bool = False,
    copies: int = 1,
    stream_usage: bool = True,
    framed: bool = True,
    operation: str = "chat",
    tier: str = "default",
    shape: Shape | None = None,
    wants: Wants | None = None,
    marks: tuple[Mark, ...] = (),
    media: tuple[tuple[str, int], ...] = (),
) -> Chat:
    """A Chat from the texts of system prompt and messages, in order, one each."""
    prompt = prompt_text(texts)
    sha, count = prompt_sha(prompt), len(texts)
    return Chat(
        model,
        prompt,
        sha,
        count,
        max_tokens,
        stream,
        copies,
        stream_usage,
        framed,
        operation,
        tier,
        shape=shape,
        wants=wants or _NO_WANTS,
        marks=marks,
        media=media,
    )


def embed(model: str, vectors: Vectors) -> Chat:
    """A call for vectors. No message, so no tokens but those of the texts."""
    prompt = prompt_text(vectors.texts)
    return Chat(model, prompt, prompt_sha(prompt), 0, operation="embeddings", vectors=vectors)


def names(text: str) -> frozenset[str]:
    """The names in a text, which blanks part."""
    return frozenset(text.split())


def stand_in(part: dict[str, object]) -> str:
    """The text that stands for a part of a prompt that is no text: an image, a file, a tool call."""
    return f"[{prompt_sha(orjson.dumps(part, option=orjson.OPT_SORT_KEYS).decode())}]"


def spoil(usage: dict[str, object], how: str | None) -> dict[str, object] | str | None:
    """A usage block as a wrong_usage fault shows it; an empty dict stands for "leave it out"."""
    if how is None:
        return usage
    if how == "missing":
        return {}
    if how == "null":
        return None
    if how == "text":
        return "unavailable"
    if how == "partial":
        return dict(list(usage.items())[:1])
    if how == "digits":
        return {name: str(value) if isinstance(value, int) else value for name, value in usage.items()}
    if how == "huge":
        return {name: value + HUGE if isinstance(value, int) else value for name, value in usage.items()}
    return {name: -value if isinstance(value, int) else value for name, value in usage.items()}


def unfinished(events: list[bytes]) -> list[bytes]:
    """The events of a stream without those that say why the answer ended."""
    return [event for event in events if not _ENDS.search(event)]


def pieces(text: str) -> list[str]:
    """A text cut at spaces into at most PIECES parts, as a stream hands it out."""
    words = text.split(" ")
    step = -(-len(words) // PIECES)
    parts = [" ".join(words[at : at + step]) for at in range(0, len(words), step)]
    return [part + (" " if at < len(parts) - 1 else "") for at, part in enumerate(parts)]


def without_output(reply: Reply, output: int) -> Reply:
    """A reply that was stopped before its text: nothing said, `output` tokens billed."""
    given = reply.usage.input - reply.usage.tool
    usage = replace(reply.usage, input=given, output=output, reasoning=0, tool=0, fees=())
    return replace(
        reply, text="", finish="filter", usage=usage, call=None, thinks=False, thought="", queries=(), code=None
    )


def whole_seconds(wait: float) -> int:
    """A wait as retry-after says it: whole seconds, at least one."""
    return max(1, math.ceil(wait))


def retry_after(seconds: float | None) -> bytes:
    """The retry-after header line, or nothing."""
    return b"" if seconds is None else b"retry-after: %d\r\n" % whole_seconds(seconds)


def stated_wait(seconds: float | None) -> bytes:
    """Returns the retry-after header line of a limit's stated wait: whole seconds, 0 only where 0 is stated; or nothing."""
    return b"retry-after: 0\r\n" if seconds == 0 else retry_after(seconds)


def wait_headers(seconds: float | None) -> bytes:
    """Returns OpenAI's two header lines of a limit's stated wait, or nothing."""
    if seconds is None:
        return b""
    return stated_wait(seconds) + b"retry-after-ms: %d\r\n" % math.ceil(seconds * 1000)


def exact_retry_after(seconds: float | None) -> bytes:
    """The retry-after header line of a fault, which may ask for fractions; or nothing."""
    return b"" if seconds is None else f"retry-after: {seconds:g}\r\n".encode()


def bearer(request: Request) -> str | None:
    """The token of an `Authorization: Bearer` header."""
    scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
    token = token.strip()
    return token.decode("utf-8", "surrogateescape") if token and scheme.lower() == b"bearer" else None


def request_id() -> str:
    return f"req_{secrets.token_hex(12)}"
