"""The control endpoints change what is played and start it anew."""

from typing import Any

import pytest

from tests.worker.sandbox.conftest import KEY, Play


def test_health_tells_that_it_lives(play: Play) -> None:
    played = play()
    played.ask("openai")
    health = played.client.get(f"{played.box.url}/_sandbox/health").json()
    assert (health["ok"], health["calls"]) == (True, 1)


def test_reset_empties_the_log_fills_the_buckets_and_rearms_the_faults(play: Play) -> None:
    played = play(limits={"rpm": 6}, faults=[{"kind": "status", "status": 500, "times": 1}])
    assert [played.ask("openai").status_code for _ in range(2)] == [500, 429]
    assert played.client.post(f"{played.box.url}/_sandbox/reset").json() == {"ok": True}
    assert played.rows() == []
    assert played.ask("openai").status_code == 500
    assert [row["n"] for row in played.rows()] == [1]


def test_a_call_that_is_under_way_at_a_reset_does_not_show_in_the_new_log(play: Play) -> None:
    played = play(faults=[{"kind": "hang"}])
    sock = played.raw(played.request("openai"))
    while not played.rows():
        pass
    played.client.post(f"{played.box.url}/_sandbox/reset")
    sock.close()
    played.faults()
    played.ask("claude")
    summary = played.client.get(f"{played.box.url}/_sandbox/summary").json()
    assert [(entry["provider"], entry["in_flight"]) for entry in summary["providers"]] == [("claude", 0)]


def test_accounts_can_be_replaced(play: Play) -> None:
    played = play()
    assert played.ask("openai").status_code == 200
    accounts = [{"provider": "openai", "key": "sk-another-00000"}]
    assert played.client.post(f"{played.box.url}/_sandbox/accounts", json=accounts).status_code == 200
    assert played.ask("openai").status_code == 401
    assert played.ask("openai", key="sk-another-00000").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("faults", [{"kind": "nonsense"}], "0.kind"),
        ("faults", {"kind": "hang"}, "list"),
        ("accounts", [{"provider": "openai", "key": KEY, "rpm": 0}], "0.rpm"),
        ("accounts", [{"provider": "openai", "key": KEY}] * 2, "same provider and key"),
        ("accounts", [{"provider": "openai", "secret": KEY}], "0.key"),
    ],
)
def test_a_wrong_setting_is_explained_without_its_values(play: Play, path: str, body: Any, words: str) -> None:
    played = play()
    answer = played.client.post(f"{played.box.url}/_sandbox/{path}", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert KEY not in answer.text


def test_unknown_paths_say_what_there_is(play: Play) -> None:
    played = play()
    assert "GET summary" in played.client.get(f"{played.box.url}/_sandbox/nothing").json()["message"]
    assert "/openai/v1" in played.client.get(played.box.url).text
    assert played.rows() == []
