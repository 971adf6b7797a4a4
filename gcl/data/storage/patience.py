"""Doing something again that failed, a bounded number of times, with pauses that grow."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")
JITTER = random.SystemRandom()  # neither the seed of a run nor equal in forked processes


@dataclass(frozen=True)
class Patience:
    """How long something that fails or does not answer is waited for."""

    tries: int = 5
    try_seconds: float = 60.0  # of one try
    pause_seconds: float = 0.5  # before the second try, and twice as long before each further one

    @property
    def longest_seconds(self) -> float:
        """The most that all tries together take."""
        return self.tries * self.try_seconds + sum(1.5 * self._pause(number) for number in range(1, self.tries))

    def call(self, action: Callable[[], Result], is_final: Callable[[Exception], bool]) -> Result:
        """What `action` returns the first time that it does not fail.

        Raises:
            Exception: what it raised the last time, or whatever `is_final` says about that another try is no use.
        """
        for number in range(1, self.tries):
            try:
                return action()
            except Exception as error:
                if is_final(error):
                    raise
            # Not all at the same moment: those that failed together would fail together again.
            time.sleep(self._pause(number) * JITTER.uniform(0.5, 1.5))
        return action()

    def _pause(self, number: int) -> float:
        return self.pause_seconds * 2 ** (number - 1)
