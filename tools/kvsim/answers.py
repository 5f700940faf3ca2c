"""What the model says: words drawn from the prompt's own hash. Pure."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from kvsim.tokens import EOS, WORD_IDS

_MASK = (1 << 64) - 1


def answer_seed(prompt: Sequence[int], *extra: object) -> int:
    """A number that is the same for the same prompt, in every process."""
    digest = blake2b(array("Q", prompt).tobytes(), digest_size=8, person=b"kvsim")
    digest.update(repr(extra).encode())
    return int.from_bytes(digest.digest(), "little")


def _mix(value: int) -> int:
    """One round of splitmix64 (Steele, Lea and Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def natural_length(seed: int) -> int:
    """After how many tokens the model would stop by itself: 128 to 639."""
    return 128 + _mix(seed ^ 0xE05) % 512


def token_at(seed: int, place: int, *, may_stop: bool) -> int:
    """The token at a place of the answer; the end token where it may stop and is done."""
    if may_stop and place >= natural_length(seed):
        return EOS
    return WORD_IDS[_mix(seed + place * 0x2545F4914F6CDD1D) % len(WORD_IDS)]


def logprob_at(seed: int, place: int, rank: int = 0) -> float:
    """A plausible log probability, lower for lower ranks."""
    return -0.05 - (_mix(seed ^ (place << 8) ^ 0x10C) % 1000) / 400.0 - 0.7 * rank


def alternative_at(seed: int, place: int, rank: int) -> int:
    """The token that would have come with ``rank`` (from 1)."""
    return WORD_IDS[_mix(seed ^ (place << 16) ^ rank) % len(WORD_IDS)]
