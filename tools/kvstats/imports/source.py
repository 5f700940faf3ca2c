"""An object of another tool's file: values by key, with a clear line for what cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvpipe.process import ToolError

NS = 1_000_000_000
MOST_S = 1e9
"""Seconds beyond which no stamp is one: thirty years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The object at its place; complaints name the place and the key. Absent keys are null."""

    place: str
    values: Mapping[str, Any]
    inside: str = ""
    """Key of the object that it is part of, with a dot behind it."""

    def part(self, key: str) -> Source:
        """The object under `key`; empty where it is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Source(place=self.place, values=value or {}, inside=f"{self.inside}{key}.")

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def whole(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is not None and not is_whole(value):
            raise self.wrong(key, "a whole number that is not negative")
        return value

    def seconds(self, key: str, scale: float = 1.0) -> float | None:
        """A duration in seconds, where the file counts in units of `scale` seconds."""
        value = self.values.get(key)
        if value is None:
            return None
        if not is_seconds(value):
            raise self.wrong(key, "a time that is not negative")
        return float(value) * scale

    def stamp(self, key: str) -> int | None:
        """A point in time, in whole nanoseconds of any clock."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.wrong(key, "a stamp in ns")
        return value

    def required(self, key: str, wanted: str) -> Any:
        """The value; refused if the key is absent or null."""
        if self.values.get(key) is None:
            raise self.wrong(key, wanted)
        return self.values[key]

    def wrong(self, key: str, wanted: str, found: object = None) -> ToolError:
        """What is to be raised about a key."""
        value = self.values.get(key) if found is None else found
        shown = "missing" if value is None else repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return ToolError(f"{self.place}: '{self.inside}{key}' is {shown}, but {wanted} is needed")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def is_seconds(value: object) -> bool:
    """A number that can be a time in seconds or, below 30 years, in any smaller unit."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= MOST_S  # false for NaN too


def ns(seconds: float) -> int:
    """Whole nanoseconds."""
    return round(seconds * NS)
