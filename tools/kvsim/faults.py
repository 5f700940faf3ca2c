"""What can be made to go wrong, in one table, and what is switched on now."""

from dataclasses import dataclass
from typing import Literal

Owner = Literal["node", "store", "proxy"]
"""Whose fault it is; prefillers and decoders are nodes."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way of being wrong: what its argument means, and what it should provoke."""

    what: str
    argument: str = ""
    """How ``=ARG`` is spelt; empty: there is none."""
    default: str = ""
    owner: Owner = "node"


FAULTS: dict[str, Fault] = {
    # the cache
    "ignore_salt": Fault("cache_salt changes nothing: contamination between namespaces"),
    "persistent": Fault("a hidden cache that ignores salts and resets: a cold round that is not"),
    "evict": Fault("blocks are forgotten before they would hit: lost", "SHARE", "1"),
    "save_never": Fault("nothing is ever saved to the store"),
    "fake_hits": Fault("a PD decoder: every prompt reports all but one token as cached"),
    "null_details": Fault("prompt_tokens_details is null"),
    "drop_usage": Fault("no usage at all"),
    "no_metrics": Fault("/metrics is 404: nothing but the answers themselves tells anything"),
    # resets
    "reset_lies": Fault("resets say success and clear nothing"),
    "reset_busy": Fault("the next N resets say success: false", "N", "1"),
    "store_reset_ignored": Fault("remove_all says success and keeps every key", owner="store"),
    # the proxy before a prefiller and a decoder
    "no_models": Fault(
        "/v1/models, /version and /tokenize are 404, as real ones have none", owner="proxy"
    ),
    "hide_cached": Fault(
        "the decoder is not told what the prefiller had cached: fake hits",
        owner="proxy",
    ),
    # the shape of the stream
    "usage_in_last_content_chunk": Fault("usage comes with the last token, not after it"),
    "role_only_early": Fault("the role chunk is sent at admission"),
    "reasoning": Fault("the first half of the tokens is delta.reasoning"),
    "reasoning_content": Fault("the same under reasoning_content"),
    "reasoning_both": Fault("the same text under both names at once"),
    "tool_calls": Fault("tokens come as the arguments of a tool call"),
    "no_text": Fault("tokens without text"),
    "no_done": Fault("no [DONE] at the end"),
    "truncate": Fault("the connection is closed after N content chunks", "N", "3"),
    "buffered": Fault("the whole stream in one write at its end: stream_buffered"),
    "compressed": Fault("streams are gzipped, whatever the client accepts"),
    "merged": Fault("N events a write", "N", "2"),
    "split": Fault("events split over writes at random bytes"),
    "crlf": Fault("lines end with CR LF"),
    "comments": Fault("comment lines between the events"),
    "content_type_json": Fault("the stream calls itself application/json"),
    # errors
    "error_midstream": Fault("every N-th stream ends in an error event", "N", "3"),
    "http_error": Fault("every N-th request gets STATUS", "STATUS[,N]", "500"),
    "engine_death": Fault("the engine dies at the N-th request from now", "N", "1"),
    "reset_connection": Fault(
        "every N-th request on a reused connection is reset before any byte", "N", "1"
    ),
    "idle_close_s": Fault("idle connections are closed after S seconds", "S", "1"),
    "restart": Fault("process start time and counters begin anew at the N-th request", "N", "1"),
    # time
    "stall_s": Fault("each stream pauses for S seconds after its second token", "S", "5"),
    "slow": Fault("every step takes FACTOR times as long", "FACTOR", "2"),
    "drift": Fault("each request makes all later steps FACTOR times as long", "FACTOR", "1.05"),
    "warmup_slow": Fault("the first N requests swing between fast and slow", "N", "6"),
    # the answers
    "nondeterministic": Fault("the same prompt gets another answer each time: answers_differ"),
    "near_tie": Fault("at the N-th token two are as likely, and a hit takes the other", "N", "3"),
    "corrupt_load": Fault("blocks come out of the store damaged: answers on them are wrong"),
    "extra_tokens": Fault("a hit gets one token less than was asked for: unequal work"),
}


class FaultError(ValueError):
    """An unknown fault, or an argument that makes no sense."""


def parse_fault(text: str, *, owner: Owner) -> tuple[str, str]:
    """``NAME[=ARG]`` as a pair, the default argument filled in."""
    name, _, argument = text.partition("=")
    fault = FAULTS.get(name)
    if fault is None or fault.owner != owner:
        known = ", ".join(key for key, value in FAULTS.items() if value.owner == owner)
        raise FaultError(f"fault {name!r}: no such fault; known: {known}")
    if argument and not fault.argument:
        raise FaultError(f"fault {name!r}: takes no argument, got {argument!r}")
    argument = argument or fault.default
    for part in argument.split(",") if fault.argument else ():
        try:
            positive = float(part) >= 0
        except ValueError:
            positive = False
        if not positive:
            raise FaultError(f"fault {name!r}: {fault.argument} must be a number, got {part!r}")
    return name, argument


class FaultSet:
    """The faults that are on, and how often each was asked."""

    def __init__(self, texts: tuple[str, ...] = (), *, owner: Owner = "node") -> None:
        self._owner: Owner = owner
        self._on: dict[str, str] = {}
        self._seen: dict[str, int] = {}
        for text in texts:
            self.switch_on(text)

    def switch_on(self, text: str) -> None:
        """Raises FaultError."""
        name, argument = parse_fault(text, owner=self._owner)
        self._on[name] = argument
        self._seen.pop(name, None)

    def switch_off(self, name: str | None) -> None:
        """One, or all of them."""
        if name is None:
            self._on.clear()
        else:
            self._on.pop(name, None)

    def active(self) -> dict[str, str]:
        return dict(self._on)

    def on(self, name: str) -> bool:
        return name in self._on

    def number(self, name: str, absent: float = 0.0, part: int = 0) -> float:
        """An argument as a number; ``absent`` while the fault is off."""
        if name not in self._on:
            return absent
        parts = self._on[name].split(",")
        return float(parts[part]) if part < len(parts) else 1.0

    def every(self, name: str, part: int = 0) -> bool:
        """Counts one more occasion; True at each N-th."""
        if name not in self._on:
            return False
        self._seen[name] = self._seen.get(name, 0) + 1
        return self._seen[name] % max(1, int(self.number(name, part=part))) == 0

    def once(self, name: str) -> bool:
        """Counts one more occasion; True at the N-th only."""
        if name not in self._on:
            return False
        self._seen[name] = self._seen.get(name, 0) + 1
        return self._seen[name] == max(1, int(self.number(name)))

    def first(self, name: str) -> int | None:
        """Counts one more occasion; its place from 0 among the first N, else None."""
        if name not in self._on:
            return None
        place = self._seen.get(name, 0)
        self._seen[name] = place + 1
        return place if place < self.number(name) else None
