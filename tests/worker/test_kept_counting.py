"""How servers count tokens is stored, taken over by other workers, followed when it is reset, and forgotten with its configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.config import Config
from models.database import Database
from models.learning import fingerprints
from models.store import learned as learned_store
from models.store.learned import Learned
from tests.worker.bench import Bench
from tests.worker.scripted import config
from worker.kept_counting import USED_SECONDS, KeptCounting
from worker.token_counting import Rule, TokenCounting

DATABASES = ["sqlite"]
BOTH = Rule("both", 1.3)


def with_limit(settings: Config, tokens: int) -> Config:
    (provider,) = settings.providers
    (key,) = provider.keys
    keys = (key.model_copy(update={"limit_tokens_per_min": tokens}),)
    return settings.model_copy(update={"providers": (provider.model_copy(update={"keys": keys}),)})


def place(bench: Bench) -> tuple[str, str]:
    """The pool, and the fingerprint of its configuration."""
    ((pool, mark),) = fingerprints(bench.config.providers).items()
    return pool, mark or ""


class Worker:
    """One worker's part, without its calls."""

    def __init__(self, bench: Bench, settings: Config | None = None) -> None:
        self.counting = TokenCounting("p")
        self.bench = bench
        self.kept = KeptCounting(settings or bench.config, {"p": self.counting}, bench.recorder)

    def find(self, rule: Rule, model: str = "m") -> None:
        known = self.counting._model(model)
        known.rule, known.found, known.unsaved = rule, True, True

    def exchange(self) -> Rule:
        self.bench.run(self.kept.exchange())
        return self.counting.rule("m")


@pytest.fixture
def bench(start_worker: Callable[..., Bench]) -> Bench:
    return start_worker(config({"limits": "learn"}))


@pytest.fixture
def pair(bench: Bench) -> tuple[Worker, Worker]:
    return Worker(bench), Worker(bench)


def test_what_one_worker_has_found_serves_the_others_and_the_next_run(
    bench: Bench, pair: tuple[Worker, Worker]
) -> None:
    one, other = pair
    one.find(BOTH)
    assert one.exchange() == BOTH
    assert other.exchange() == BOTH
    assert Worker(bench).exchange() == BOTH


def test_a_rule_that_changes_is_followed_where_it_was_only_taken_over(pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.find(BOTH)
    one.exchange()
    other.exchange()
    one.find(Rule("usage"))
    one.exchange()
    assert other.exchange() == Rule("usage")
    other.find(Rule("larger"))
    assert other.exchange() == Rule("larger")
    assert one.exchange() == Rule("usage"), "it has found that itself"


def test_a_rule_of_another_configuration_is_left_alone(bench: Bench, pair: tuple[Worker, Worker]) -> None:
    one, _ = pair
    one.find(BOTH)
    one.exchange()
    changed = Worker(bench, with_limit(bench.config, 5))
    assert changed.exchange() == Rule()
    changed.find(Rule("usage"))
    changed.exchange()
    assert Worker(bench).exchange() == BOTH


def test_a_reset_forgets_it_everywhere(database: Database, bench: Bench, pair: tuple[Worker, Worker]) -> None:
    one, other = pair
    one.find(BOTH)
    one.exchange()
    other.exchange()
    pool, _ = place(bench)
    with database.write() as connection:
        learned_store.reset(connection, [pool], "", database.now(connection))
    assert one.exchange() == Rule()
    assert other.exchange() == Rule()
    assert Worker(bench).exchange() == Rule()


def test_limits_and_counting_of_a_model_stand_beside_each_other(
    database: Database, bench: Bench, pair: tuple[Worker, Worker]
) -> None:
    one, other = pair
    pool, mark = place(bench)
    with database.write() as connection:
        now = database.now(connection)
        learned_store.keep(connection, [Learned(pool, "m", requests_per_min=300.0, configured=mark)], now)
    one.find(BOTH)
    one.exchange()
    with database.write() as connection:
        now = database.now(connection)
        learned_store.keep(connection, [Learned(pool, "m", requests_per_min=200.0, configured=mark)], now)
        (stored,) = learned_store.everything(connection, now)
    assert (stored.requests_per_min, stored.counting is not None) == (200.0, True)
    assert other.exchange() == BOTH


def test_a_rule_in_use_does_not_expire(database: Database, pair: tuple[Worker, Worker]) -> None:
    one, _ = pair
    one.find(BOTH)
    one.exchange()
    table = learned_store.learned_limits
    with database.write() as connection:
        old = database.now(connection) - USED_SECONDS - 60
        connection.execute(table.update().values(updated_at=old))
    one.exchange()
    with database.read() as connection:
        (stored,) = learned_store.everything(connection, database.now(connection))
    assert stored.updated_at > old + 60


def test_what_is_no_rule_is_left_out(database: Database, bench: Bench, pair: tuple[Worker, Worker]) -> None:
    pool, mark = place(bench)
    for text in ("{", "[]", '{"basis": "guess", "factor": 1}', '{"basis": "both", "factor": 99}'):
        with database.write() as connection:
            rows = [Learned(pool, "m", counting=text, configured=mark)]
            learned_store.keep_countings(connection, rows, database.now(connection))
        assert pair[1].exchange() == Rule()
