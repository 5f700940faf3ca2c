"""`--per-request`: a line `request_stats` for each request, with the metrics of that request.

The lines wait in a temporary file until the input has ended, in input order: kvstats writes once,
whole. They are for jq and spreadsheets; kvreport passes over them.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, BinaryIO

from kvpipe.jsonl import encode
from kvpipe.records import RequestStats, Run
from kvstats.lots import Lot
from kvstats.metrics import Column, hit_ratio
from kvstats.round import Told

IN_MEMORY = 8 << 20  # bytes


def stats_of(lot: Lot, run: Run, told: Told) -> Iterator[RequestStats]:
    """The lines of a lot."""
    columns = {name: _with_none(column) for name, column in told.metrics.items()}
    met = [None] * len(lot) if told.meets_slo is None else told.meets_slo.tolist()
    for place, request in enumerate(lot.requests):
        prompt, cached = request.prompt_tokens, request.cached_tokens
        yield RequestStats(
            run_id=request.run_id,
            name=run.name,
            repeat=run.repeat,
            round_num=run.round_num,
            arm=run.arm,
            index=request.index,
            request_id=request.request_id,
            group=request.group,
            stratum=request.stratum,
            turn=request.turn,
            status=request.status,
            ttft_s=columns["ttft_s"][place],
            ttft_due_s=columns["ttft_due_s"][place],
            tpot_s=columns["tpot_s"][place],
            e2e_s=columns["e2e_s"][place],
            queue_s=columns["queue_s"][place],
            second_token_s=columns["second_token_s"][place],
            prompt_tokens=prompt,
            output_tokens=request.output_tokens,
            cached_tokens=cached,
            hit_ratio=None if prompt is None or cached is None else hit_ratio(cached, prompt),
            meets_slo=met[place],
        )


def _with_none(column: Column) -> list[float | None]:
    return [None if math.isnan(value) else value for value in column.tolist()]


class Spool:
    """Lines kept until they may be written."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115

    def add(self, found: Iterable[tuple[Lot, Run, Told]]) -> None:
        """Keep the lines of one batch, in its order."""
        lines = [
            (place, encode(one))
            for lot, run, told in found
            for place, one in zip(lot.places, stats_of(lot, run, told), strict=True)
        ]
        self._file.writelines(line for _, line in sorted(lines))

    def write_to(self, out: BinaryIO) -> None:
        """All lines, in input order."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, out)

    def close(self) -> None:
        """Drop the temporary file."""
        self._file.close()
