"""`jobs`: what is listed, and how."""

from __future__ import annotations

from pathlib import Path

from models.database import Database
from tests.submit.cli.reading import Cli, loaded, worked_on


def test_jobs_are_listed_in_input_order_and_by_status(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    found = loaded(command("jobs", 1, "--json"))["jobs"]
    assert [(job["id"], job["status"]) for job in found] == [
        ("p0", "succeeded"),
        ("p1", "succeeded"),
        ("p2", "failed"),
        ("p3", "queued"),
    ]
    (failed,) = loaded(command("jobs", 1, "--status", "failed", "--json"))["jobs"]
    assert failed["error"] == {"code": "bad_request", "message": "it can't do that"}
    assert (failed["position"], failed["lane"], failed["provider"], failed["attempts"]) == (2, "openai", "openai", 1)
    text = command("jobs", 1, "--limit", 3)
    assert "bad_request: it can't do that" in text.stdout
    assert "--limit" in text.stderr
