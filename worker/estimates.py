"""How many tokens a call will take, before it is made: learned per provider and model from the calls that came back.

It counts characters, not tokens: no tokenizer is needed, and the ring corrects what was wrong as soon as the truth is known. Input is
learned as a ratio and an overhead: some servers add a prompt of their own to each request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from models.guesses import COLD_CHARACTERS_PER_TOKEN, COLD_OUTPUT_TOKENS, MEDIA_TOKENS, TOKENS_A_MESSAGE, tokens_of

T = TypeVar("T")

WARM_AFTER = 5
WEIGHT = 0.05
MOST_MODELS = 4096
"""Of so many the experience is kept: whoever submits rows may name what models they like."""
LONGEST_OUTPUT = 2**18
"""More than models write in a call: a server that reports more must not make the next calls look too big for their limits."""
LONGEST_OVERHEAD = 2**18
"""The same for a prompt of the server's own."""
MOST_TOKENS_A_CHARACTER = 4.0
"""No tokenizer makes more of a character: it has at most four bytes."""
PRIOR_CHARACTERS = 100.0
"""By how many characters inputs have to differ (their standard deviation) before their ratio weighs as much as the cold one."""


@dataclass(frozen=True, slots=True)
class _Line:
    """Tokens as a linear function of characters, fitted to calls of which recent ones weigh more: means, variance and covariance. It
    begins with the cold slope, so the first call decides the overhead."""

    seen: int = 0
    characters: float = 0.0
    tokens: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0

    def with_call(self, characters: int, tokens: float) -> _Line:
        weight = max(WEIGHT, 1.0 / (self.seen + 1))
        across, up = characters - self.characters, tokens - self.tokens
        return _Line(
            self.seen + 1,
            self.characters + across * weight,
            self.tokens + up * weight,
            (1 - weight) * (self.variance + weight * across * across),
            (1 - weight) * (self.covariance + weight * across * up),
        )

    def at(self, characters: int) -> float:
        prior = PRIOR_CHARACTERS**2
        slope = (self.covariance + prior / COLD_CHARACTERS_PER_TOKEN) / (self.variance + prior)
        slope = min(max(slope, 0.0), MOST_TOKENS_A_CHARACTER)
        overhead = self.tokens - slope * self.characters
        if overhead < TOKENS_A_MESSAGE:  # fewer tokens than the slope allows: the ratio is another
            overhead = TOKENS_A_MESSAGE
            slope = max(self.tokens - TOKENS_A_MESSAGE, 0.0) / max(self.characters, 1.0)
        return overhead + slope * characters


class Estimates:
    """One process's experience with one provider. What a request holds is told as `models.guesses.characters` counts it: text, media."""

    def __init__(self, default_output_tokens: int | None = None) -> None:
        self._cold_output = default_output_tokens or COLD_OUTPUT_TOKENS
        self._input: dict[str, _Line] = {}
        self._output: dict[str, tuple[int, float]] = {}
        self._longest: dict[str, tuple[int, int]] = {}

    def input_tokens(self, model: str, size: tuple[int, int]) -> int:
        """Returns the expected tokens of an input of this size; never less than cold while few calls are known."""
        text, media = size
        cold, line = tokens_of(size), self._input.get(model)
        if line is None:
            return cold
        learned = max(round(line.at(text)), TOKENS_A_MESSAGE) + media * MEDIA_TOKENS
        return max(learned, cold) if line.seen < WARM_AFTER else learned

    def output_tokens(self, model: str, most: int | None) -> int:
        """What will come out: the mean of what came, bounded by the request; its own bound while nothing is learned."""
        seen, mean = self._output.get(model, (0, 0.0))
        expected = max(1, round(mean)) if seen >= WARM_AFTER else (most or self._cold_output)
        return min(expected, most) if most else expected

    def longest_output(self, model: str) -> int | None:
        """Returns the longest output of calls without a bound of their own, and a quarter more; None until some have answered."""
        seen, longest = self._longest.get(model, (0, 0))
        return longest + longest // 4 + 1 if seen >= WARM_AFTER else None

    def learn_unbounded(self, model: str, output_tokens: int) -> None:
        """Takes in how long the output of a call without a bound was."""
        seen, longest = self._longest.get(model, (0, 0))
        self._keep(self._longest, model, (seen + 1, max(longest, min(output_tokens, LONGEST_OUTPUT))))

    def learn(self, model: str, size: tuple[int, int], input_tokens: int, output_tokens: int) -> None:
        """Takes in what a call really took."""
        text, media = size
        if not media and input_tokens > 0:
            tokens = min(float(input_tokens), LONGEST_OVERHEAD + MOST_TOKENS_A_CHARACTER * text)
            self._keep(self._input, model, self._input.get(model, _Line()).with_call(text, tokens))
        seen, mean = self._output.get(model, (0, 0.0))
        weight = max(WEIGHT, 1.0 / (seen + 1))
        self._keep(self._output, model, (seen + 1, mean + (min(output_tokens, LONGEST_OUTPUT) - mean) * weight))

    @staticmethod
    def _keep(table: dict[str, T], model: str, learned: T) -> None:
        table.pop(model, None)
        table[model] = learned  # as the last in its order, so that the first was used least lately
        if len(table) > MOST_MODELS:
            del table[next(iter(table))]
