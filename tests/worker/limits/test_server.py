"""The limiter on the server's own clock and over a real connection: real time, no repeats, nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from models.errors import ConfigError, StorageError
from tests.servers import Valkey
from worker.limits.limiter import Grant, Limiter, Wait, connect
from worker.limits.server import describe, examine, is_script_error, misfit


def test_in_real_time_two_limiters_keep_to_the_pace(virtual):
    async def story(world):
        one = virtual.key("p/real", requests=1_200, tokens=10_000_000)
        started: list[float] = []
        asked: list[float] = []

        async def worker() -> None:
            client = connect(world.url)
            limiter = Limiter(client)
            wants: list = []
            while time.monotonic() < began + 1.5:
                wants += [world.want([one], tokens=10) for _ in range(16 - len(wants))]
                asked.append(time.monotonic())
                answers = await limiter.reserve(wants)
                waits = [answer for answer in answers if isinstance(answer, Wait)]
                started.extend(answer.start_at for answer in answers if isinstance(answer, Grant))
                left = {wait.want_id for wait in waits}
                wants = [want for want in wants if want.id in left]
                await asyncio.sleep(min((wait.seconds for wait in waits), default=0.05))
            await client.aclose()

        began = time.monotonic()
        await asyncio.gather(worker(), worker())
        ended = time.monotonic()
        asked = [*sorted(asked), ended]
        # while the machine stands still nobody asks, and nothing is granted
        at_work = sum(min(after - before, 0.5) for before, after in itertools.pairwise(asked))
        in_time = [start for start in started if start < ended]
        # 19.7 a second and a burst of 9.
        assert 0.9 * (at_work - 0.5) * 19.7 <= len(in_time) <= (ended - began) * 19.7 + 9 + 2
        assert max(started) <= ended + 1.1

    virtual.run(story)


def test_a_call_that_fails_is_never_repeated(virtual):
    """A server that reads commands and hangs up counts how often a reservation arrives."""

    async def story(world):
        folder = Path(tempfile.mkdtemp(prefix="vk"))
        arrived: list[bytes] = []

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                if b"EVAL" in data:
                    arrived.append(data)
                    break
                writer.write(b"+OK\r\n" * (data.count(b"CLIENT") + data.count(b"\nSET\r\n")))
                writer.write(b"$18\r\n# Server\r\nrun_id:7\r\n" * data.count(b"\nINFO\r\n"))
                await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(hang_up, str(folder / "s"))
        client = connect(f"unix://{folder}/s")
        with pytest.raises(redis.ConnectionError):
            await Limiter(client).reserve([world.want([virtual.key("p/k", requests=6)])])
        assert len(arrived) == 1
        await client.aclose()
        server.close()
        shutil.rmtree(folder)

    virtual.run(story)


def test_no_answer_within_the_timeout_is_an_error(virtual):
    async def story(world):
        one, admin = virtual.key("p/k", requests=6), connect(world.url)
        client = connect(world.url, timeout=0.1, greet=False)
        await admin.execute_command("CLIENT", "PAUSE", "60000", "WRITE")
        with pytest.raises(redis.TimeoutError):
            await Limiter(client).reserve([world.want([one])])
        await client.aclose()
        await admin.execute_command("CLIENT", "UNPAUSE")
        await admin.aclose()

    virtual.run(story)


def delay(world, limiter, *trips: tuple[float, float]) -> None:
    """From now on this limiter's scripts are so many seconds on their way there, and their answers back; the last pair stays."""
    client, left = limiter._client, list(trips)
    send = type(client).execute_command
    limiter._server_time = lambda: world.now + world.step + left[0][0]  # by then

    async def slowly(*command):
        question, answer = left.pop(0) if len(left) > 1 else left[0]
        world.now += question
        reply = await send(client, *command)
        world.now += answer
        return reply

    client.execute_command = slowly


async def load_scripts(virtual, world) -> None:
    """So that each is one command."""
    limiter, key = await world.limiter(), virtual.key("p/other", tokens=6_000)
    grant = await world.until_granted(limiter, world.want([key], tokens=1))
    await world.settle(limiter, grant, tokens=2)


ways = st.tuples(st.floats(0, 4.5), st.floats(0, 4.5))


@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(trips=st.lists(ways, min_size=1, max_size=5), step=st.sampled_from([0.0, -3600.0, 4.9]))
@example(trips=[(0.9, 0.0)], step=0.0)
@example(trips=[(4.5, 0.0)], step=-3600.0)
@example(trips=[(0.0, 3.0)], step=4.9)
def test_however_long_question_and_answer_are_on_their_way_no_call_starts_before_it_is_booked(virtual, trips, step):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6_000)
        await load_scripts(virtual, world)
        delay(world, limiter, (0.001, 0.001))
        await world.ask(limiter, world.want([one]))
        world.step = step  # of the server's clock alone
        for n, (question, answer) in enumerate(trips):
            delay(world, limiter, (question, answer), (0.0, 0.0))
            for grant in await world.ask(limiter, world.want([one]), world.want([one])):
                if isinstance(grant, Grant):
                    booked = grant.slot * 0.5 - world.step
                    assert grant.start_at >= booked
                    # nor after it, but for a clock that was set and is to be learned anew
                    assert grant.start_at < booked + (0.5 if step == 0.0 else 1.5) or (step and n > 0)
            world.now += 61

    virtual.run(story)


def test_a_first_answer_that_was_long_on_its_way_is_given_back_and_asked_for_again(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6_000)
        await load_scripts(virtual, world)
        delay(world, limiter, (0.4, 0.7), (0.001, 0.001))  # which of them it was that took so long, nobody can tell
        (grant,) = await world.ask(limiter, world.want([one]))
        assert grant.start_at == pytest.approx(grant.slot * 0.5 + grant.into_slot, abs=0.01)
        assert (await limiter.room([one]))[0].buckets[0].booked == 1

    virtual.run(story)


def test_a_server_that_always_takes_long_is_believed(virtual):
    async def story(world):
        limiter = await world.limiter()
        delay(world, limiter, (0.4, 0.7))
        (grant,) = await world.ask(limiter, world.want([virtual.key("p/k", requests=6)]))
        assert isinstance(grant, Grant)

    virtual.run(story)


def test_keys_that_go_by_earlier_limits_are_granted_nothing(virtual):
    async def story(world):
        told = []

        async def ruled():
            told.append(world.now)

        limiter, client = await world.limiter(ruled=ruled), connect(world.url)
        one = virtual.key("p/k", requests=600)
        await client.set("{truckllm}:limits-mark", "new")
        (wait,) = await world.ask(limiter, world.want([replace(one, rules="old")]))
        assert isinstance(wait, Wait)
        answers = await world.ask(
            limiter, world.want([replace(one, rules="old")]), world.want([replace(one, rules="new")])
        )
        assert all(isinstance(answer, Wait) for answer in answers)
        assert len(told) == 2
        for rules in ("new", ""):
            (grant,) = await world.ask(limiter, world.want([replace(one, rules=rules)]))
            assert isinstance(grant, Grant)
        await client.delete("{truckllm}:limits-mark")
        (wait,) = await world.ask(limiter, world.want([replace(one, rules="new")]))
        assert isinstance(wait, Wait), "a server that has lost the limits is told them first"
        await client.aclose()

    virtual.run(story)


def test_a_server_that_lost_its_scripts_is_told_them_again(virtual):
    async def story(world):
        limiter, one, client = await world.limiter(), virtual.key("p/k", requests=600), connect(world.url)
        for _ in range(2):
            await client.script_flush()
            (grant,) = await world.ask(limiter, world.want([one]))
            assert isinstance(grant, Grant)
        await client.aclose()

    virtual.run(story)


def test_everything_carries_the_hash_tag_and_an_expiry(virtual):
    async def story(world):
        limiter, client = await world.limiter(), connect(world.url)
        one = virtual.key("p/k", requests=600, tokens=60_000)
        (grant,) = await world.ask(limiter, world.want([one], tokens=5))
        await world.settle(limiter, grant, tokens=7)
        await world.ask(limiter, world.want([one], tokens=40_000))
        await limiter.too_many(one, 30)
        await limiter.block("p/k", 30)
        await limiter.block("p/l", None)
        await limiter.meet("1")
        names = await client.keys("*")
        assert len(names) >= 8
        for name in names:
            assert name.startswith(b"{truckllm}:")
            assert await client.ttl(name) > 0, name
        for name in ("r:p/k", "x:p/k"):  # nothing ends before its time
            assert await client.ttl("{truckllm}:" + name) > 30
        await client.aclose()

    virtual.run(story)


def test_old_slots_leave_redis(virtual):
    async def story(world):
        limiter, client, one = await world.limiter(), connect(world.url), virtual.key("p/k", requests=6_000)
        for _ in range(400):
            await world.ask(limiter, world.want([one]))
            world.now += 0.5
        assert await client.hlen("{truckllm}:b:p/k|requests") <= 123
        world.now += 500
        await world.ask(limiter, world.want([one]))
        assert await client.hlen("{truckllm}:b:p/k|requests") == 2
        await client.aclose()

    virtual.run(story)


@pytest.fixture
def fussy_valkey() -> Iterator[Callable[..., Valkey]]:
    """Starts one server with options; it may refuse whatever it is asked."""
    started: list[Valkey] = []

    def start(*options: str) -> Valkey:
        server = Valkey.__new__(Valkey)
        server.folder = Path(tempfile.mkdtemp(prefix="vk"))
        server.url = f"unix://{server.folder}/s"
        server._answers = lambda: (server.folder / "s").exists()  # type: ignore[method-assign]
        server.start(*options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


def test_a_server_without_the_commands_that_hosted_ones_switch_off_keeps_limits_all_the_same(fussy_valkey, virtual):
    off = [word for name in ("INFO", "CONFIG", "CLIENT", "DEBUG") for word in ("--rename-command", name, "")]
    server = fussy_valkey(*off)

    async def story(world):
        await examine(server.url)
        client = connect(server.url)
        answers = await Limiter(client).reserve([world.want([virtual.key("p/k", requests=1)]) for _ in range(2)])
        assert [type(answer) for answer in answers] == [Grant, Wait]
        await client.aclose()

    virtual.run(story)


@pytest.mark.parametrize(
    ("options", "user", "error", "said"),
    [
        (["--requirepass", "right"], ":canary-wrong@", StorageError, "refuses the user or its password"),
        (["--requirepass", "right"], "", StorageError, "refuses the user or its password"),
        ([], "nobody:canary-wrong@", StorageError, "refuses the user or its password"),
        (["--rename-command", "EVAL", ""], "", ConfigError, "limits need EVAL"),
        (["--user", "default", "on", "nopass", "~*", "+@all", "-@scripting"], "", ConfigError, "limits need EVAL"),
        (["--cluster-enabled", "yes", "--cluster-config-file", "nodes"], "", ConfigError, "is part of a Redis Cluster"),
    ],
)
def test_a_server_that_never_will_do_says_at_the_start_why_and_tells_no_password(
    fussy_valkey, options, user, error, said
):
    url = fussy_valkey(*options).url.replace("unix://", f"unix://{user}")
    with pytest.raises(error) as caught:
        asyncio.run(examine(url))
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("number", ["99", "-1"])
def test_a_database_that_the_server_does_not_have_ends_the_start_with_the_reason(fussy_valkey, number):
    url = f"{fussy_valkey().url}?db={number}"
    with pytest.raises(ConfigError, match="has no such database"):
        asyncio.run(examine(url))


def test_a_server_that_is_away_or_takes_no_writes_just_now_is_waited_for(fussy_valkey):
    asyncio.run(examine(fussy_valkey("--replicaof", "127.0.0.1", "1").url))
    asyncio.run(examine("redis://127.0.0.1:1/0"))


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"redis_version": "4.0.14", "redis_mode": "standalone"}, "is Redis 4.0.14; TruckLLM needs 5.0"),
        ({"redis_version": "7.4.1", "redis_mode": "cluster"}, "is part of a Redis Cluster"),
        ({"redis_version": "5.0.0", "redis_mode": "standalone"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2", "server_mode": "standalone"}, None),
        ({"redis_version": 255.255}, None),
        ({}, None),
    ],
)
def test_versions_and_modes_that_will_not_do(info, why):
    told = misfit(info)
    assert told is None if why is None else why in told


def test_a_script_that_fails_is_told_apart_from_an_outage(valkey_url):
    async def story():
        client = connect(valkey_url)
        with pytest.raises(ResponseError) as failed:
            await client.execute_command("EVAL", "return unpack({}, 1, 9000)", 0)
        assert is_script_error(failed.value)
        assert "too many results to unpack" in describe(failed.value)
        await client.aclose()

    asyncio.run(story())
    for outage in (
        ConnectionError("refused"),
        ResponseError("OOM command not allowed when used memory > 'maxmemory'. script: 1f, on @user_script:1."),
        ResponseError("MISCONF Valkey is configured to save RDB snapshots"),
        ResponseError("BUSY Valkey is busy running a script."),
    ):
        assert not is_script_error(outage)
