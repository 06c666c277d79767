"""How results' files are called, and that no answer in one of them is ever written over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from models.config_file import load_config_text
from models.database import Database, open_database
from models.store import reruns
from submit.exports import export
from submit.producer import submit_batch
from submit.result_files import default_paths
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: s-1}]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def sqlite(folder: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{folder}/only.db")
    yield database
    database.close()


def submitted(database: Database, *lines: dict[str, Any], name: str = "prompts.jsonl") -> int:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return submit_batch(name, config=load_config_text(CONFIG), database=database).batch_id


def prompt(number: int) -> dict[str, Any]:
    return {"id": number, "prompt": f"say {number}", "model": "gpt-4o"}


def body(number: int) -> dict[str, Any]:
    content = {"model": "gpt-4o", "messages": [{"role": "user", "content": str(number)}]}
    return {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": content}


def answered(database: Database, text: str = "yes", *, failing: int = 0) -> None:
    """All open jobs end: the last `failing` of them fail, the others succeed."""
    worker = WorkerByHand(database)
    claimed = worker.claim(100)
    for place, job in enumerate(claimed, 1):
        if place > len(claimed) - failing:
            worker.fail(job, "bad_request", "it can't")
        else:
            worker.succeed(job, text=text, response=json.dumps({"said": text}).encode())


def statuses(path: str) -> list[str]:
    return [json.loads(line)["status"] for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("-", ("batch-7.results.jsonl", "batch-7-2.results.jsonl")),
        (
            "prompts.jsonl",
            ("prompts.results.jsonl", "prompts.batch-7.results.jsonl", "prompts.batch-7-2.results.jsonl"),
        ),
        ("prompts.2026.jsonl", ("prompts.2026.results.jsonl",)),
        ("prompts.csv.gz", ("prompts.results.jsonl",)),
        ("prompts.txt", ("prompts.txt.results.jsonl",)),
        ("prompts", ("prompts.results.jsonl",)),
        ("/not/here/prompts.jsonl", ("prompts.results.jsonl", "prompts.batch-7.results.jsonl")),
    ],
)
def test_the_default_names_come_from_the_input(name: str, expected: tuple[str, ...]) -> None:
    assert tuple(map(str, islice(default_paths(7, name), len(expected)))) == expected


def test_results_so_far_have_a_name_of_their_own() -> None:
    assert next(default_paths(7, "prompts.jsonl", partial=True)) == Path("prompts.partial.jsonl")
    assert next(default_paths(7, "-", partial=True)) == Path("batch-7.partial.jsonl")


def test_a_pilots_results_have_a_name_of_their_own() -> None:
    names = default_paths(7, "in/prompts.jsonl.gz", limit=20)
    assert [str(next(names)) for _ in range(2)] == [
        "prompts.first20.results.jsonl",
        "prompts.first20.batch-7.results.jsonl",
    ]


def test_another_batchs_results_stay_and_the_new_ones_go_beside(sqlite: Database) -> None:
    first = submitted(sqlite, prompt(1))
    answered(sqlite, "first")
    assert export(sqlite, first).path == Path("prompts.results.jsonl")
    before = Path("prompts.results.jsonl").read_bytes()
    second = submitted(sqlite, prompt(1), prompt(2))
    answered(sqlite, "second")
    for _ in range(2):
        done = export(sqlite, second)
        assert (done.path, done.kept) == (Path("prompts.batch-2.results.jsonl"), Path("prompts.results.jsonl"))
        assert len(statuses("prompts.batch-2.results.jsonl")) == 2
    assert Path("prompts.results.jsonl").read_bytes() == before
    assert export(sqlite, first).path == Path("prompts.results.jsonl")
    assert sorted(path.name for path in Path().glob("prompts.*")) == [
        "prompts.batch-2.results.jsonl",
        "prompts.jsonl",
        "prompts.results.jsonl",
    ]


def test_a_batch_with_the_same_number_of_another_database_is_not_lost_either(sqlite: Database, folder: Path) -> None:
    first = submitted(sqlite, prompt(1))
    answered(sqlite, "first")
    export(sqlite, first, "prompts.batch-1.results.jsonl")
    export(sqlite, first)
    other = open_database(f"sqlite:///{folder}/other.db")
    again = submitted(other, prompt(1))
    answered(other, "other")
    assert (again, export(other, again).path) == (1, Path("prompts.batch-1-2.results.jsonl"))
    other.close()


def test_results_so_far_never_replace_final_ones(sqlite: Database) -> None:
    first = submitted(sqlite, prompt(1))
    answered(sqlite)
    export(sqlite, first)
    second = submitted(sqlite, prompt(1), prompt(2))
    done = export(sqlite, second, partial=True)
    assert (done.path, done.kept, done.unfinished) == (Path("prompts.partial.jsonl"), None, 2)
    assert statuses("prompts.results.jsonl") == ["succeeded"]


def test_results_so_far_replace_earlier_ones_of_the_same_batch(sqlite: Database) -> None:
    batch = submitted(sqlite, prompt(1), prompt(2), prompt(3))
    worker = WorkerByHand(sqlite)
    for expected in (["queued"] * 3, ["succeeded", "queued", "queued"], ["succeeded", "succeeded", "queued"]):
        if expected[0] == "succeeded":
            worker.succeed(worker.claim()[0])
        assert export(sqlite, batch, partial=True).path == Path("prompts.partial.jsonl")
        assert statuses("prompts.partial.jsonl") == expected


def test_an_input_of_that_name_is_no_result_and_stays(sqlite: Database) -> None:
    batch = submitted(sqlite, prompt(1))
    Path("prompts.partial.jsonl").write_text(json.dumps(prompt(1)) + "\n")
    assert export(sqlite, batch, partial=True).path == Path("prompts.batch-1.partial.jsonl")


@pytest.mark.parametrize("line", [prompt, body])
def test_what_a_rerun_has_won_takes_the_place_of_what_failed(sqlite: Database, line: Any) -> None:
    batch = submitted(sqlite, line(1), line(2))
    answered(sqlite, failing=1)
    export(sqlite, batch)
    failed = Path("prompts.results.jsonl").read_text().splitlines()[1]
    with sqlite.write() as connection:
        assert reruns.rerun(connection, batch).number == 1
    answered(sqlite, "at last")
    done = export(sqlite, batch)
    assert (done.path, done.kept, done.succeeded) == (Path("prompts.results.jsonl"), None, 2)
    assert Path("prompts.results.jsonl").read_text().splitlines()[1] != failed


def test_a_file_that_is_named_is_replaced_as_asked(sqlite: Database) -> None:
    batch = submitted(sqlite, prompt(1))
    answered(sqlite)
    Path("prompts.results.jsonl").write_text("mine\n")
    assert export(sqlite, batch).path == Path("prompts.batch-1.results.jsonl")
    assert export(sqlite, batch, "prompts.results.jsonl").kept is None
    assert statuses("prompts.results.jsonl") == ["succeeded"]


def test_beside_a_link_means_beside_the_file_that_it_points_to(sqlite: Database, folder: Path) -> None:
    (folder / "far").mkdir()
    (folder / "far" / "real.jsonl").write_text("mine\n")
    Path("prompts.results.jsonl").symlink_to(folder / "far" / "real.jsonl")
    batch = submitted(sqlite, prompt(1))
    answered(sqlite)
    assert export(sqlite, batch).path == folder / "far" / "prompts.batch-1.results.jsonl"
    assert (folder / "far" / "real.jsonl").read_text() == "mine\n"
