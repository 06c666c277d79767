"""Decides, from replies that don't seem to be the API's, whether a provider's base_url is wrong.

It makes no call but the free list of models, and ends no job: what is held back here stays queued.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from models.request import Failure

log = logging.getLogger("truckllm.endpoint")

REST_SECONDS = 60.0
"""How long no call is made to an address that isn't the API's; then a single call asks again."""
ENOUGH_REPLIES = 2


class Endpoint:
    """The state of one provider's address. `lists` asks for the free list of models with a key: True if it names models, False if what answers has no
    such list either, None if that can't be found out. `clock` is monotonic."""

    def __init__(
        self, provider: str, lists: Callable[[str], Awaitable[bool | None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._lists = lists
        self._clock = clock
        self._proven = False
        self._strange = 0
        self._listed: bool | None = None
        self._asking = asyncio.Lock()
        self._until = float("-inf")
        self._was_wrong = False

    @property
    def wrong(self) -> bool:
        """True while no call is to be made, because the address isn't the API's."""
        return self._clock() < self._until

    @property
    def on_trial(self) -> bool:
        """True while only one call at a time is to be made: the address was wrong, and the API has not answered since."""
        return self._was_wrong and not self.wrong

    def answered(self) -> None:
        """The API itself has answered a job."""
        self._proven = True
        self._was_wrong = False
        self._until = float("-inf")

    async def doubted(self, failure: Failure, key: str) -> bool:
        """Takes in a reply that seems to come from something else. False if it concerns its own request alone: the API has answered
        another job, or lists its models. True if the address is wrong, or nobody knows yet; the second such reply decides."""
        if self._proven:
            return False
        self._strange += 1
        async with self._asking:
            if self._listed is None and not self.wrong:
                self._listed = await self._lists(key)
        if self._listed or self._proven:
            return False
        if (self._listed is False or self._strange >= ENOUGH_REPLIES) and not self.wrong:
            self._until = self._clock() + REST_SECONDS
            self._was_wrong = True
            self._listed = None
            log.warning(
                "%s: what answers is not its API: %s; asked again in %.0f s",
                self._provider,
                failure.message,
                REST_SECONDS,
            )
        return True
