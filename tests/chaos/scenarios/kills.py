"""`kill -9` of workers: at random moments, and at the points where a promise could break."""

from __future__ import annotations

from tests.chaos.ground import Ground
from tests.chaos.registry import scenario

RPM = 1200
LATENCY = 0.4


def keep_busy(ground: Ground, least: int = 150, more: int = 300) -> None:
    """Submits another batch when the work is about to run out, so that every kill hits some."""
    if ground.left() < least:
        ground.submit(more)


@scenario("random-kills", short=0.12)
def random_kills(ground: Ground) -> None:
    """`kill -9` of a worker at random moments, one of three, started again at once."""
    ground.start(latency=LATENCY, rpm=RPM)
    ground.submit(200)
    crew = [ground.start_worker() for _ in range(3 if ground.scale >= 1 else 2)]
    for _ in range(ground.some(25, least=2)):
        keep_busy(ground)
        victim = ground.rng.randrange(len(crew))
        ground.until(lambda: ground.running(crew[victim]), "the next victim to have work", 60)  # noqa: B023
        pause = ground.rng.uniform(0.0, 0.6)
        ground.quiet(pause)
        ground.kill(crew[victim])
        crew[victim] = ground.start_worker()
    ground.finish()
