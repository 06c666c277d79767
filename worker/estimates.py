"""How many tokens a call will take, before it is made: learned per provider and model from the calls that came back.

It counts characters, not tokens: no tokenizer is needed, and the ring corrects what was wrong as soon as the truth is known.
"""

from __future__ import annotations

from models.guesses import COLD_CHARACTERS_PER_TOKEN, COLD_OUTPUT_TOKENS, MEDIA_TOKENS, TOKENS_A_MESSAGE

WARM_AFTER = 5
WEIGHT = 0.05
MOST_MODELS = 4096
"""Of so many the experience is kept: whoever submits rows may name what models they like."""
LONGEST_OUTPUT = 2**18
"""More than models write in a call: a server that tells more must not make the next calls look too big for their limits."""


class Estimates:
    """One process's experience with one provider. What a request holds is told as `models.guesses.characters` counts it: text, media."""

    def __init__(self, default_output_tokens: int | None = None) -> None:
        self._cold_output = default_output_tokens or COLD_OUTPUT_TOKENS
        self._ratio: dict[str, tuple[int, float]] = {}
        self._output: dict[str, tuple[int, float]] = {}

    def input_tokens(self, model: str, size: tuple[int, int]) -> int:
        """What goes in."""
        text, media = size
        seen, ratio = self._ratio.get(model, (0, COLD_CHARACTERS_PER_TOKEN))
        if seen < WARM_AFTER:
            ratio = min(ratio, COLD_CHARACTERS_PER_TOKEN)
        return round(text / ratio) + TOKENS_A_MESSAGE + media * MEDIA_TOKENS

    def output_tokens(self, model: str, most: int | None) -> int:
        """What will come out: the mean of what came, bounded by the request; its own bound while nothing is learned."""
        seen, mean = self._output.get(model, (0, 0.0))
        expected = max(1, round(mean)) if seen >= WARM_AFTER else (most or self._cold_output)
        return min(expected, most) if most else expected

    def learn(self, model: str, size: tuple[int, int], input_tokens: int, output_tokens: int) -> None:
        """Takes in what a call really took."""
        text, media = size
        if not media and input_tokens > TOKENS_A_MESSAGE and text > 0:
            self._blend(self._ratio, model, text / max(1, input_tokens - TOKENS_A_MESSAGE))
        self._blend(self._output, model, float(min(output_tokens, LONGEST_OUTPUT)))

    @staticmethod
    def _blend(table: dict[str, tuple[int, float]], model: str, value: float) -> None:
        seen, mean = table.pop(model, (0, 0.0))
        weight = max(WEIGHT, 1.0 / (seen + 1))
        # as the last in its order, so that the first was used least lately
        table[model] = (seen + 1, mean + (value - mean) * weight)
        if len(table) > MOST_MODELS:
            del table[next(iter(table))]
