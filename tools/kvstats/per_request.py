"""`--per-request`: a line `request_stats` for each request, with the metrics of that request.

The lines wait in a temporary file until the input has ended, in input order: kvstats writes once,
whole. They are for jq and spreadsheets; kvreport passes over them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from typing import IO, BinaryIO

from kvpipe.jsonl import encode
from kvpipe.records import Request, RequestStats, Run
from kvstats.metrics import OPEN_LOOP, hit_ratio
from kvstats.slo import meets

IN_MEMORY = 8 << 20  # bytes


def request_stats(
    request: Request, run: Run, metrics: Mapping[str, float | None], slo: Mapping[str, float]
) -> RequestStats:
    """The line of one request."""
    prompt, cached = request.prompt_tokens, request.cached_tokens
    judged = bool(slo) and request.status == "ok"
    open_loop = run.arrival.kind in OPEN_LOOP
    return RequestStats(
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
        ttft_s=metrics["ttft_s"],
        ttft_due_s=metrics["ttft_due_s"],
        tpot_s=metrics["tpot_s"],
        e2e_s=metrics["e2e_s"],
        queue_s=metrics["queue_s"],
        second_token_s=metrics["second_token_s"],
        prompt_tokens=prompt,
        output_tokens=request.output_tokens,
        cached_tokens=cached,
        hit_ratio=None if prompt is None or cached is None else hit_ratio(cached, prompt),
        meets_slo=meets(metrics, slo, open_loop=open_loop) if judged else None,
    )


class Spool:
    """Lines kept until they may be written."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115

    def add(
        self,
        request: Request,
        run: Run,
        metrics: Mapping[str, float | None],
        slo: Mapping[str, float],
    ) -> None:
        """Keep one request's line."""
        self._file.write(encode(request_stats(request, run, metrics, slo)))

    def write_to(self, out: BinaryIO) -> None:
        """All lines, in input order."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, out)

    def close(self) -> None:
        """Drop the temporary file."""
        self._file.close()
