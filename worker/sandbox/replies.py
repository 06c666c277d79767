"""What the played models say and what it costs in tokens: pure functions of prompt and model.

No dialect, no clock and no randomness here: the same file gets the same answers anywhere.

Tokens are counted simply. Input: ceil(characters / 4) of the prompt text plus 4 a message. Output: 5 to 40 by hash of
prompt and model, or `output_tokens`, and never more than the caller's max_tokens (then the reply ends for `length`);
every choice or candidate of a call costs the same. With `usage_extras` part of the input was read from or written to a
cache and part of the output was reasoning, by the same hash. A call that asks for reasoning gets it in any case.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from worker.sandbox.settings import SandboxSettings

_VOCABULARY = (
    "amber anchor apple arch arrow ash autumn badge bamboo barley basin beacon birch blossom boat bramble brass bread "
    "breeze bridge brook canal candle canyon cedar chalk cherry cinder cliff cloud clover coal coast copper coral "
    "cotton crane creek crystal dawn delta desert dew dune dusk eagle echo elm ember falcon feather fern field finch "
    "flame flax flint foam forest fossil fox frost garden garnet ginger glacier glade gold granite grass grove gull "
    "harbor hazel heath heron hill honey horizon ice indigo iris iron island ivory ivy jade jasmine juniper kelp kite "
    "lagoon lake lantern lark lava lemon lichen lilac lily linen lotus maple marble marsh meadow mill mint mist moon "
    "moss mountain nectar nest north oak oasis ocean olive onyx opal orchard otter owl palm path pearl pebble pine "
    "plain plum pond poppy prairie quarry quartz rain raven reed reef ridge river robin rose ruby sage sail salt sand "
    "sea seed shell shore silk silver sky slate snow south spark spring spruce star stone storm stream summer sun swan "
    "thistle thorn thunder tide timber topaz trail tulip valley velvet violet walnut water wave west wheat willow wind "
    "winter wolf wood wren yarrow zephyr acorn alder basalt bay beech bell berry bluff bough briar cave chestnut clay "
    "cove crest crow daisy dale fjord fog glen grain gravel hail hawk hedge holly hollow lagune larch leaf ledge loam "
    "mesa mulberry oat oyster peak petal pier pumice ravine rye sapphire shale shoal sleet spire sprig summit"
)
_WORDS = _VOCABULARY.split()
WORDS = tuple(_WORDS[index % len(_WORDS)] for index in range(256))
MESSAGE_OVERHEAD = 4

Finish = Literal["stop", "length", "filter"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a call: `input` with everything cached, `output` with reasoning; the others are parts of these.

    `tool` is input that the provider's own tools gave, `media` input that isn't text, by its kind. `fees` are uses of tools
    that are billed by the use.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    tool: int = 0
    media: tuple[tuple[str, int], ...] = ()
    fees: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call is answered: the text of each choice, why it ended, its usage, the served model, an id's body.

    `call` is the tool that it calls instead, with its arguments. `thinks`: its reasoning was asked for; `thought` is what can be read of it, `queries` are
    its web searches, `code` is a program that it ran, with its output.
    """

    text: str
    finish: Finish
    usage: Usage
    model: str
    digest: str
    copies: int = 1
    call: tuple[str, dict[str, Any]] | None = None
    thinks: bool = False
    thought: str = ""
    queries: tuple[str, ...] = ()
    code: tuple[str, str] | None = None


def prompt_sha(prompt: str) -> str:
    """The log's name of a prompt: the first 16 hex digits of the sha256 of its text."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prompt_text(texts: Iterable[str]) -> str:
    """The text of a prompt in any dialect: its system text and then its messages' texts, a line break between."""
    return "\n".join(texts)


def input_tokens(prompt: str, messages: int) -> int:
    return -(-len(prompt) // 4) + MESSAGE_OVERHEAD * messages


def compose(
    prompt: str,
    sha: str,
    model: str,
    messages: int,
    max_tokens: int | None,
    settings: SandboxSettings,
    *,
    copies: int = 1,
    cache_writes: bool = True,
    thinks: bool | None = None,
) -> Reply:
    """The reply to a prompt (`sha` is its `prompt_sha`): the same for the same prompt, model and token settings.

    `cache_writes` is False for a provider whose usage knows no writes to a cache. `thinks`: whether it reasons; None leaves
    that to the settings.
    """
    seed = hashlib.sha256(f"{model}\0{sha}".encode())
    rolls = seed.digest()
    wanted = settings.output_tokens or 5 + rolls[0] % 36
    given = input_tokens(prompt, messages)
    cached = write = reasoning = 0
    if settings.usage_extras:
        cached = given * (rolls[1] % 3) // 4
        write = (given - cached) * (rolls[2] % 2) // 2 if cache_writes else 0
        reasoning = rolls[3] % 24
    if thinks is not None:
        reasoning = 8 + rolls[3] % 24 if thinks else 0
    total = wanted + reasoning
    finish: Finish = "stop"
    if max_tokens is not None and total > max_tokens:
        finish = "length"
        total = max_tokens
        reasoning = min(reasoning, total - 1)
    visible = total - reasoning
    text = _sentence(sha, model, visible, finish)
    usage = Usage(given, total * copies, cached, write, reasoning * copies)
    return Reply(text, finish, usage, settings.served_models.get(model, model), seed.hexdigest()[:24], copies)


def dice(seed: str, count: int) -> bytes:
    """So many numbers from 0 to 255, the same for the same seed."""
    return hashlib.shake_128(seed.encode("utf-8", "surrogatepass")).digest(count)


def words(seed: str, count: int) -> str:
    """So many words, the same for the same seed."""
    return " ".join([WORDS[roll] for roll in dice(seed, count)])


def without_text(reply: Reply) -> Reply:
    """The reply to a call for vectors: its input is all that it costs."""
    return replace(reply, text="", finish="stop", usage=Usage(input=reply.usage.input))


def vector(text: str, model: str, dimensions: int) -> list[float]:
    """The embedding of a text: the same for the same text and model, of length 1."""
    rolls = dice(f"{model}\0{text}", 2 * dimensions)
    numbers = [int.from_bytes(rolls[at : at + 2], "big") / 32767.5 - 1 for at in range(0, 2 * dimensions, 2)]
    length = math.hypot(*numbers)
    return [round(number / length, 8) for number in numbers]


def _sentence(sha: str, model: str, count: int, finish: Finish) -> str:
    if count == 1:
        return sha[:8]
    said = words(f"{sha}\0{model}", count - 1)
    return f"{sha[:8]} {said}{'.' if finish == 'stop' else ''}"
