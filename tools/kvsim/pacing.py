"""How long a step takes. The only source of time in the simulated engine."""

from collections.abc import Iterable
from random import Random

from kvsim.faults import FaultSet
from kvsim.options import Pace

_SWINGS = (4.0, 1.5, 3.0, 1.2, 2.5, 1.0)


class Pacer:
    """Step length from tokens, with seeded noise and the faults of time."""

    def __init__(self, pace: Pace, faults: FaultSet, random: Random) -> None:
        self._pace = pace
        self._faults = faults
        self._random = random
        self._drift = 1.0
        self._swing = 1.0

    def request_arrived(self) -> None:
        """Moves the faults that go by requests."""
        self._drift = self._drift * self._faults.number("drift") if self._faults.on("drift") else 1
        place = self._faults.first("warmup_slow")
        self._swing = 1.0 if place is None else _SWINGS[place % len(_SWINGS)]

    def step_s(self, parts: Iterable[tuple[int, int, bool]]) -> float:
        """Parts are (tokens before, tokens now, decoding)."""
        pace = self._pace
        total = pace.step_s
        for before, count, decoding in parts:
            if decoding:
                total += pace.decode_s_per_sequence * count
            else:
                total += count / pace.prefill_tps
                total += count * (before + count / 2) * pace.attention_s_per_pair
        return total * self._factor()

    def load_s(self, blocks: int, block_tokens: int) -> float:
        return self._pace.load_s(blocks, block_tokens) * self._factor()

    def save_s(self, blocks: int, block_tokens: int) -> float:
        return self._pace.save_s(blocks, block_tokens)

    @property
    def save_delay_s(self) -> float:
        return self._pace.save_delay_s

    def _factor(self) -> float:
        noise = 1.0
        if self._pace.jitter:
            noise = max(0.2, self._random.gauss(1.0, self._pace.jitter))
        return noise * self._faults.number("slow", 1.0) * self._drift * self._swing
