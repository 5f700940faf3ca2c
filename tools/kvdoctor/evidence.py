"""What the probes saw, and nothing that was concluded from it. Null is what was not seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from kvengine.identify import Identity
from kvengine.saltask import Told
from kvengine.saltprobe import SaltProbe
from kvpipe.records import Barrier

Reach = Literal["loopback", "every_interface", "private", "public"]
"""From where a server can be asked: `every_interface` is one that was named by its loopback
address and answers at another one of this machine too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How an engine says that it is configured: its metrics, and `/server_info` where it has it."""

    block_tokens: int | None = None
    cache_tokens: int | None = None
    """Room of its own prefix cache."""
    prefix_caching: bool | None = None
    hash_algorithm: str | None = None
    cache_dtype: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    tensor_parallel: int | None = None
    connector: str | None = None
    connector_role: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One prompt, never sent before, twice to one endpoint."""

    first: Told
    second: Told
    needed_tokens: int
    """Cached tokens from which a hit counts as one."""
    limit_tokens: int
    """The longest prompt that may be tried there."""
    text: str
    rest: Barrier | None = None
    """Whether the endpoint and the stores came to rest afterwards."""
    saved_keys: float | None = None
    """Keys that the engine counted as saved meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Keys of a store before and after something; null where they are not listed."""

    appeared: frozenset[str] | None
    count: int | None
    """How many more there were, also where they are only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """The engine's own cache, and only that, was emptied; then the same prompt came again."""

    ok: bool | None
    answer: str
    told: Told


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A streamed answer as it came over the wire; the best of a few."""

    status: int
    tokens: int | None
    """By its usage; null where it told none."""
    reads: int
    """Arrivals of data after the head."""
    encoding: str | None
    """Content-Encoding, though `identity` was asked for; null for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """An idle connection: when the server closed it, null if not while it was watched."""

    closed_s: float | None
    watched_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the chat template puts before every prompt."""

    tokens: int | None
    text: str | None


@dataclass(slots=True, kw_only=True)
class NodeSeen:
    """One engine."""

    where: str
    kind: str
    """Whose manners it has: `vllm`, `sglang`, ..."""
    endpoint: bool = True
    """False for an engine behind an endpoint, which is looked at and sent no prompts."""
    trouble: str | None = None
    """Why it could not be examined; then nothing else is known."""
    answered: bool = False
    """Whether anything answered there at all."""
    identity: Identity | None = None
    health: int | None = None
    metrics: bool = False
    config: Config = field(default_factory=Config)
    floor_tokens: int | None = None
    head: Head | None = None
    several: str | None = None
    running: float | None = None
    """Requests that ran or waited before anything was sent."""
    reset_status: int | None = None
    """Of GET on the reset's route, which does nothing: 405 where there is one."""
    reach: Reach | None = None
    open_routes: tuple[str, ...] = ()
    """Routes that change or show something and answered without a key."""
    idle: Idle | None = None
    stream: Stream | None = None
    dialogue: Dialogue | None = None
    salts: tuple[SaltProbe, ...] = ()
    reset: Reset | None = None
    foreign_requests: float | None = None
    """Requests that it served meanwhile and that were not ours."""

    @property
    def model(self) -> str | None:
        return self.identity.model if self.identity else None

    @property
    def version(self) -> tuple[int, ...]:
        """As numbers; empty where it is not told."""
        text = (self.identity.version if self.identity else None) or ""
        parts = text.partition("+")[0].split(".")
        numbers: list[int] = []
        for part in parts:
            if not part.isdigit():
                break
            numbers.append(int(part))
        return tuple(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How full a store is at one moment."""

    capacity_bytes: float | None = None
    allocated_bytes: float | None = None
    evicted_keys: float | None = None
    """Since its start."""
    alloc_failures: float | None = None
    """Since its start."""


@dataclass(slots=True, kw_only=True)
class StoreSeen:
    """One store, or an LMCache between engine and store."""

    where: str
    kind: str
    trouble: str | None = None
    before: Room = field(default_factory=lambda: Room())
    after: Room = field(default_factory=lambda: Room())
    chunk_tokens: int | None = None
    keys: bool = False
    """Whether it lists its keys."""
    reach: Reach | None = None
    open_routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """The first endpoint's prompt, sent for the first time to another one."""

    source: str
    where: str
    told: Told
    needed_tokens: int
    from_source: tuple[Keys, ...] = ()
    """Keys that appeared by the first endpoint's prompts, a set per store."""
    from_here: tuple[Keys, ...] = ()
    """Keys that appeared by this one, when it had computed what it did not find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The machine that this runs on, which is the one that will send the load."""

    open_files: int | None = None
    """The hard limit, to which kvload lifts its own."""
    ports: int | None = None
    """Ephemeral ports."""
    clock: str | None = None
    """The kernel's clock source."""
    cpus: int | None = None
    """Processors that this process may use."""
    throttled_ratio: float | None = None
    """Share of the examination in which the container's processor quota held it back."""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Everything that was seen."""

    nodes: list[NodeSeen]
    stores: list[StoreSeen] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    from_source: tuple[Keys, ...] = ()
    """Keys that appeared by the first endpoint's prompts, a set per store."""
    client: Client = field(default_factory=Client)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When the examination began."""
    behind_is_asked: bool = False
    skipped: list[tuple[str | None, str, str]] = field(default_factory=list)
    """Where, what was not looked at, and why."""
    prompts: int = 0
    prompt_tokens: int = 0
    elapsed_s: float = 0.0

    @property
    def endpoints(self) -> list[NodeSeen]:
        """Those that prompts go to and that could be examined."""
        return [node for node in self.nodes if node.endpoint and node.trouble is None]

    @property
    def servers(self) -> list[NodeSeen | StoreSeen]:
        """All of them, those that could not be examined too."""
        return [*self.nodes, *self.stores]

    @property
    def behind(self) -> list[NodeSeen]:
        """Engines behind the endpoints, named by their own URLs."""
        return [node for node in self.examined if not node.endpoint]

    @property
    def examined(self) -> list[NodeSeen]:
        return [node for node in self.nodes if node.trouble is None]


def hit_tokens(told: Told) -> float | None:
    """Cached tokens of a prompt, as told, else as counted; null where nobody says."""
    if told.cached_tokens is not None:
        return told.cached_tokens
    if told.local_tokens is None and told.external_tokens is None:
        return None
    return (told.local_tokens or 0) + (told.external_tokens or 0)
