"""What other tools measured, read into our records as far as it goes: the rest is null.

`--from TOOL` turns each file into one round, a stream of `run`, `request` lines and `end`, which
goes the way of every other stream. Nothing is guessed: what the file does not tell is null, and a
finding `imported` says which that is. The keys of each tool are listed in docs/peers.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kvpipe.process import ToolError
from kvpipe.records import End, Request, Run
from kvstats.imports import aiperf, vllm_bench
from kvstats.streams import Rounds

Record = Run | Request | End

READERS: dict[str, Callable[[str, int], Iterator[Record]]] = {
    "vllm-bench": vllm_bench.records_of,
    "aiperf": aiperf.records_of,
}
"""By the name for `--from`: the records of a file, and which round it is where it does not say."""


def import_into(rounds: Rounds, tool: str, paths: Sequence[str]) -> None:
    """Add the records of all files; the first is round 1 unless it says otherwise itself.

    ToolError with the file's name at the first that is refused.
    """
    for number, path in enumerate(paths, 1):
        for record in READERS[tool](path, number):
            try:
                rounds.add(record)
            except ToolError as error:
                raise ToolError(f"{path}: {error}", error.status) from error
