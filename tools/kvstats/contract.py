"""What kvstats writes is held against the schema before a byte of it is out."""

from __future__ import annotations

import msgspec

from kvpipe.process import ToolError
from kvpipe.records import RoundStats, Samples
from kvschemas import first_problem

HEAD = 100  # rows: the columns are typed anyway, and 100k rows would take jsonschema a minute


def checked(stats: RoundStats) -> RoundStats:
    """`stats`; ToolError if the schema refuses it, which is a bug here and not in the input."""
    head = msgspec.structs.replace(stats, samples=_head(stats.samples))
    problem = first_problem("round_stats", msgspec.json.decode(msgspec.json.encode(head)))
    if problem is not None:
        raise ToolError(f"round_stats of {stats.name} breaks its own schema: {problem}")
    return stats


def _head(samples: Samples | None) -> Samples | None:
    if samples is None:
        return None
    columns = {
        name: column[:HEAD]
        for name in samples.__struct_fields__
        if isinstance(column := getattr(samples, name), list)
    }
    return msgspec.structs.replace(samples, **columns)
