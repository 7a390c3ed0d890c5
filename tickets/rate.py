"""How often each device may call: a bucket of tokens for each, in the memory of this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable


class RateLimit:
    """Let each key through `rate_per_s` times a second in the long run, and `burst` times at once.

    Each process counts for itself: over n of them a device has up to n times as much. At most `keys_max` keys are
    remembered, those seen last; a forgotten one begins with a full bucket.
    """

    def __init__(self, rate_per_s: float = 20.0, burst: int = 40, *, keys_max: int = 10_000) -> None:
        if rate_per_s <= 0 or burst < 1 or keys_max < 1:
            raise ValueError("rate_per_s, burst and keys_max must be positive")
        self._token_s = 1.0 / rate_per_s
        self._bucket_s = burst / rate_per_s
        self._keys_max = keys_max
        # When each bucket will be full again, in the order of use: one number says all about a bucket.
        self._full_at_s: OrderedDict[Hashable, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_at_s)

    def allow(self, key: Hashable, now_s: float) -> bool:
        """Take a token, if there is one.

        Args:
            key: whose bucket; a device's id, never an address: all of a gate may share that.
            now_s: seconds of a clock that only goes forward (time.monotonic).
        """
        with self._lock:
            # Out and in again: who was seen last is last.
            full_at_s = max(self._full_at_s.pop(key, now_s), now_s)
            # A hair more, or rounding would now and then keep the last token.
            is_allowed = full_at_s + self._token_s - now_s <= self._bucket_s + self._token_s * 1e-6
            self._full_at_s[key] = full_at_s + self._token_s if is_allowed else full_at_s
            if len(self._full_at_s) > self._keys_max:
                self._full_at_s.popitem(last=False)
            return is_allowed
