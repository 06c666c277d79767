"""`make fuzz`: a coverage-guided fuzzer over the targets, each for some minutes in a process of its own.

It needs atheris (`pip install -e '.[fuzz]'`); what it finds is kept beside the inputs that it learned, and ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(".fuzz")
SECONDS_EACH = 5
"""An input that takes longer is a hang."""
LONGEST = 16 * 1024
MEGABYTES = 2048


def main() -> int:
    """Fuzzes the named targets, all of them by default. 1: a promise was broken; the input that broke it is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="which of them (default: all)")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (default: 1)")
    parser.add_argument("--list", action="store_true", help="name the targets")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="play one input to one target, without a fuzzer")
    parser.add_argument("--play", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        _play(asked.targets[0], Path(asked.play), asked.seconds)
    from tests.fuzz.targets import TARGETS

    unknown = [name for name in asked.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if asked.list:
        _say("\n".join(TARGETS))
        return 0
    if asked.replay:
        for name in asked.targets or TARGETS:
            TARGETS[name](asked.replay.read_bytes())
        return 0
    broken = 0
    _say(f"{'target':<28}{'runs':>12}{'minutes':>9}  found")
    for name in asked.targets or TARGETS:
        broken += not _fuzzed(name, asked.minutes)
    return 1 if broken else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fuzzed(name: str, minutes: float) -> bool:
    """Runs one target for so long; whether nothing was found."""
    folder = FOLDER / name
    (folder / "learned").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz", name, "--play", str(folder), "--seconds", str(int(minutes * 60))]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode(errors="replace")
    (folder / "log").write_text(said)
    runs = re.findall(r"^(?:#|Done )(\d+)", said, re.MULTILINE)
    kept = re.findall(r"Test unit written to (\S+)", said)
    if done.returncode and not kept:
        _say(said[-2000:])
    found = ", ".join(kept) or ("failed to start" if done.returncode else "nothing")
    _say(f"{name:<28}{int(runs[-1]) if runs else 0:>12,}{minutes:>9.1f}  {found}")
    return done.returncode == 0


def _play(name: str, folder: Path, seconds: int) -> None:
    """Becomes the fuzzer; never returns."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is missing: pip install -e '.[fuzz]' (Linux on x86-64)")
    with atheris.instrument_imports(include=["models", "submit", "worker"]):
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.seeds import seeds

    for number, seed in enumerate(seeds(name)):
        (folder / "learned" / f"seed-{number}").write_bytes(seed)
    options = [
        f"-artifact_prefix={folder}/",
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_EACH}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={LONGEST}",
    ]

    def kept(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except Exception:
            found = folder / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
            found.write_bytes(data)
            _say(f"Test unit written to {found}")
            raise

    atheris.Setup([sys.argv[0], *options, str(folder / "learned")], kept)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
