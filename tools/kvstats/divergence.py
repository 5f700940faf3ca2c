"""Where two answers to one request part, and whether rounding explains it. Pure.

At temperature 0 a model gives its likeliest token. A hit computes the same sums in another order
than a miss, so where two tokens are almost equally likely either may win: a near tie, which is
numerics. Where one was clearly likelier, another token means that the model saw something else:
a damaged cache, or another prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from kvpipe.records import Divergence

NEAR_TIE_NATS = 0.25
"""Two steps of a bfloat16 logit between 16 and 32, where the largest ones lie."""
SHIFT_NATS = 1.0
"""No rounding moves the log probability of one token by this much."""
AROUND = 40  # characters that are told on each side

Kind = Literal["near_tie", "wrong", "unknown"]
Candidates = dict[bytes, float]


class Place(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer: its bytes, its log probability, and what else was likely."""

    token: bytes
    logprob: float | None
    top: Candidates


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is kept until the round it is compared with has come; null: not told."""

    text: str
    places: list[Place] | None


def kept(text: str, logprobs: Sequence[Any] | None) -> Kept:
    """The answer; log probabilities in the form of chat or of completions, as they were sent."""
    places: list[Place] = []
    for part in logprobs or ():
        found = _places(part)
        if found is None:
            return Kept(text=text, places=None)
        places += found
    return Kept(text=text, places=places or None)


def _places(part: Any) -> list[Place] | None:
    if not isinstance(part, dict):
        return None
    if isinstance(part.get("tokens"), list):
        return _of_completions(part)
    token = _bytes(part)
    top = part.get("top_logprobs")
    if token is None:
        return None
    candidates = _named((_bytes(one), one.get("logprob")) for one in _dicts(top))
    return [Place(token=token, logprob=_number(part.get("logprob")), top=candidates)]


def _of_completions(part: Mapping[str, Any]) -> list[Place] | None:
    tokens, values = part["tokens"], part.get("token_logprobs")
    tops = part.get("top_logprobs")
    values = values if isinstance(values, list) else [None] * len(tokens)
    tops = tops if isinstance(tops, list) else [None] * len(tokens)
    if len(values) != len(tokens) or len(tops) != len(tokens):
        return None
    if not all(isinstance(token, str) for token in tokens):
        return None
    return [
        Place(
            token=_utf8(token),
            logprob=_number(value),
            top=_named((_utf8(name), one) for name, one in top.items())
            if isinstance(top, dict)
            else {},
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
    ]


def _bytes(entry: Mapping[str, Any]) -> bytes | None:
    """A token's own bytes where they are told: half a character has no text of its own."""
    raw, text = entry.get("bytes"), entry.get("token")
    if isinstance(raw, list) and all(isinstance(one, int) and 0 <= one < 256 for one in raw):
        return bytes(raw) or (_utf8(text) if isinstance(text, str) else b"")
    return _utf8(text) if isinstance(text, str) else None


def _named(pairs: Any) -> Candidates:
    return {
        name: value
        for name, one in pairs
        if name is not None and (value := _number(one)) is not None
    }


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def divergence(index: int, base: Kept, other: Kept) -> Divergence:
    """Where the answers part. They must not be equal in text."""
    character = _shared(base.text, other.text)
    token, kind, gap, shift = None, "unknown", None, None
    if base.places and other.places:
        token = _first_unequal(base.places, other.places)
        begins = _characters(base, token)
        character = character if begins is None else begins
        if token < min(len(base.places), len(other.places)):
            kind, gap, shift = judged(base.places[token], other.places[token])
    return Divergence(
        index=index,
        token=token,
        character=character,
        before=escaped(base.text[max(0, character - AROUND) : character]),
        base=escaped(base.text[character : character + AROUND]),
        other=escaped(other.text[character : character + AROUND]),
        kind=kind,  # type: ignore[arg-type]
        gap=gap,
        shift=shift,
    )


def _characters(answer: Kept, tokens: int) -> int | None:
    """Where the token begins: half a word in common tells nothing. None if the text is another."""
    said = b"".join(place.token for place in (answer.places or [])[:tokens])
    text = said.decode("utf-8", "replace")
    return len(text) if answer.text.startswith(text) else None


def _shared(one: str, other: str) -> int:
    """Equal characters at the start."""
    least = min(len(one), len(other))
    return next((at for at in range(least) if one[at] != other[at]), least)


def _first_unequal(base: Sequence[Place], other: Sequence[Place]) -> int:
    pairs = enumerate(zip(base, other, strict=False))
    return next(
        (at for at, (one, two) in pairs if one.token != two.token), min(len(base), len(other))
    )


def judged(base: Place, other: Place) -> tuple[Kind, float | None, float | None]:
    """Near tie or not, the gap and the shift in nats (null: not told)."""
    gaps = [_gap(base, other.token), _gap(other, base.token)]
    told = [(gap, exact) for gap, exact in gaps if gap is not None]
    gap = max((gap for gap, _ in told), default=None)
    shift = _shift(base, other)
    if gap is None:
        return "unknown", None, shift
    if gap >= NEAR_TIE_NATS or (shift is not None and shift >= SHIFT_NATS):
        return "wrong", gap, shift
    return ("near_tie" if all(exact for _, exact in told) else "unknown"), gap, shift


def _gap(place: Place, rival: bytes) -> tuple[float | None, bool]:
    """How much likelier the place's own token was than the rival, and whether that is exact.

    A rival that is not among the candidates was at most as likely as the last of them.
    """
    own = place.logprob if place.logprob is not None else place.top.get(place.token)
    if own is None or not place.top:
        return None, False
    if rival in place.top:
        return own - place.top[rival], True
    return own - min(place.top.values()), False


def _shift(base: Place, other: Place) -> float | None:
    """How far the log probability of a token that both told lies apart, the larger of the two."""
    apart = [
        abs(one[token] - two[token])
        for token in (base.token, other.token)
        for one, two in [(_known(base), _known(other))]
        if token in one and token in two
    ]
    return max(apart, default=None)


def _known(place: Place) -> Candidates:
    return place.top if place.logprob is None else {place.token: place.logprob} | place.top


def escaped(text: str) -> str:
    """Safe to show anywhere: what has no sign of its own is written as Python writes it."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )
