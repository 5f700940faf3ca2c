"""What parent and workers tell each other.

Two ways each: `control` carries orders and short answers as pickles, `events` what a worker's
requests did, packed in batches by msgspec, since that is per request.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from kvload.drafts import Draft, RoundFacts
from kvload.drive import Outcome
from kvload.settings import Access, Api
from kvload.slices import Slice


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Order: open connections for this share of a round, and say Ready."""

    url: str
    api: Api
    access: Access
    share: Slice
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """Order: the schedule begins at `at_ns` of the clock that all processes of a host share."""

    facts: RoundFacts
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Both ways: a request that another worker's wait for has ended."""

    index: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Order: send nothing more, give up what is in flight."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Answer to Prepare."""


class Begun(msgspec.Struct, frozen=True, tag=0, array_like=True):
    """A request is about to be sent; the stamp is absolute."""

    index: int
    at_ns: int


class Over(msgspec.Struct, frozen=True, tag=1, array_like=True):
    """A request is over."""

    draft: Draft


class Tick(msgspec.Struct, frozen=True, tag=2, array_like=True):
    """Whatever this worker began before was told before; the stamp is absolute."""

    at_ns: int


class Done(msgspec.Struct, frozen=True, tag=3, array_like=True):
    """The worker's share is over; nothing follows."""

    outcome: Outcome


Event = Begun | Over | Tick | Done

encode_events = msgspec.msgpack.Encoder().encode
decode_events = msgspec.msgpack.Decoder(list[Event]).decode
