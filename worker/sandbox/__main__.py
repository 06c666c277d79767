"""`python -m worker.sandbox`: the same command as `truckllm sandbox`.

It has no options of its own.
"""

import typer

from worker.cli.sandbox import sandbox

if __name__ == "__main__":
    typer.run(sandbox)
