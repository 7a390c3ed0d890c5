"""How often each device may call: a bucket of tokens for each, in the memory of this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from core.errors import QrsiteError

BURST_S = 2.0
KEYS_MAX = 10_000


class TooManyCalls(QrsiteError):
    """The device calls more often than it may; others are answered all the same."""

    code = "too_many_calls"
    status = 429


class RateLimit:
    """Let each key through at its rate in the long run, and two seconds' worth of that at once.

    Each process counts for itself: over n of them a device has up to n times as much. At most `keys_max` keys are
    remembered, those seen last; a forgotten one begins with a full bucket.
    """

    def __init__(self, *, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        # When each bucket will be full again, in the order of use: one number says all about a bucket.
        self._full_at_s: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_at_s)

    def allow(self, key: Hashable, *, rate_per_s: int, now_s: float, cost: int = 1) -> bool:
        """Take `cost` tokens, if they are there.

        `key` says whose bucket: a device's id, never an address, for all of a gate may share that. `now_s` is of a clock
        that only goes forward (time.monotonic).
        """
        cost_s = cost / rate_per_s
        with self._lock:
            # Out and in again: who was seen last is last.
            full_at_s = max(self._full_at_s.pop(key, now_s), now_s)
            # A call that costs more than a bucket holds takes a full one. A hair more, or rounding would now and then
            # keep the last token.
            is_allowed = full_at_s + min(cost_s, BURST_S) - now_s <= BURST_S + 1e-6
            self._full_at_s[key] = full_at_s + cost_s if is_allowed else full_at_s
            if len(self._full_at_s) > self._keys_max:
                self._full_at_s.popitem(last=False)
            return is_allowed


# One for the process: both doors of the scan path and the offline queues count together.
DEVICES = RateLimit()
