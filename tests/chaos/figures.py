"""What one scenario on one database came to, in numbers, and which promises these numbers break.

It measures nothing itself; `tests.chaos.verdict` does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts are of rows of the input, of calls, or (`kills`) of worker processes."""

    scenario: str
    database: str
    seed: int
    kills: int = 0
    strikes: int = 0
    """Whatever else was killed, cut or stopped: servers, producers, `run`."""
    rows: int = 0
    lost: int = 0
    """Rows without an outcome, or called succeeded without a result."""
    doubled: int = 0
    """Rows with two results."""
    extra: int = 0
    """Calls beyond one a row that the provider didn't refuse."""
    in_flight: int = 0
    """Calls that were open, or answered and not yet recorded, when their worker was killed or stopped, or their connection cut."""
    unexplained: int = 0
    """Extra calls of rows beyond those of the same row that were in flight."""
    unseen: int = 0
    """Extra calls that the ledger doesn't show as `unknown` or `fenced`."""
    ledger_difference: int = 0
    """Calls about which ledger and provider disagree."""
    limit_overshoot: int = 0
    """Calls beyond a key's limit in the worst 60 s."""
    token_overshoot: int = 0
    """Tokens beyond a key's limit in the worst 60 s, as the provider books them."""
    seconds: float = 0.0
    broken: tuple[str, ...] = ()
    """Promises of the scenario's own that it found broken."""
    remarks: tuple[str, ...] = ()
    """What else is worth telling; breaks nothing."""

    @property
    def over_limit(self) -> int:
        """Calls and tokens beyond limits, for the table: it must be none of either."""
        return self.limit_overshoot + self.token_overshoot

    def promises(self) -> list[str]:
        """The broken ones, in sentences; empty when all is well."""
        found = [
            f"{count} {what}"
            for count, what in (
                (self.lost, "rows were lost"),
                (self.doubled, "rows have two results"),
                (max(0, self.extra - self.in_flight), "extra calls are more than were in flight"),
                (self.unexplained, "extra calls are of rows of which no call was in flight"),
                (self.unseen, "extra calls are neither `unknown` nor `fenced` in the ledger"),
                (self.ledger_difference, "calls differ between ledger and provider"),
                (self.limit_overshoot, "calls went beyond a key's limit in 60 s"),
                (self.token_overshoot, "tokens went beyond a key's limit in 60 s"),
            )
            if count
        ]
        return [*found, *self.broken]
