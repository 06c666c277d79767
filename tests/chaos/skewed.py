"""Runs `truckllm` in a process whose wall clock is wrong: STEPS, then truckllm's own arguments.

STEPS are `SECOND:OFFSET,…`: from that second of the process's life on, `time.time()` is ahead by so many seconds. Nothing else is
changed; the monotonic clocks go on, as they do where somebody sets a machine's clock.
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    spec, *arguments = sys.argv[1:]
    steps = sorted(
        (float(second), float(offset)) for second, _, offset in (one.partition(":") for one in spec.split(","))
    )
    born, real = time.monotonic(), time.time

    def wrong() -> float:
        age = time.monotonic() - born
        return real() + next((offset for second, offset in reversed(steps) if second <= age), 0.0)

    time.time = wrong
    sys.argv = ["truckllm", *arguments]
    import truckllm

    truckllm.main()


if __name__ == "__main__":
    main()
