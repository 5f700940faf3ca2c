"""Old stats files, read for ever: at least `scenario`, `round_num` and `avg_ttft`.

They become round stats without head and without samples. Nothing is invented: what an old file
does not carry stays null, and the report says what cannot be said from it. Unknown keys are
accepted, since the source documents never fixed the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvpipe.process import ToolError
from kvpipe.records import RoundStats, Stat, Timings

# First name is ours, the others are those that old files are known to carry. All in seconds.
MEANS = {
    "tpot_s": ("avg_tpot", "mean_tpot"),
    "e2e_s": ("avg_e2e", "avg_e2e_latency", "avg_latency", "mean_e2e_latency"),
}
PERCENTILES = {
    "p50": ("median_{0}", "p50_{0}"),
    "p90": ("p90_{0}",),
    "p95": ("p95_{0}",),
    "p99": ("p99_{0}",),
}
WORDS = {"ttft_s": "ttft", "tpot_s": "tpot", "e2e_s": "e2e"}
RATES = {
    "request_throughput_rps": ("request_throughput", "requests_per_second", "throughput"),
    "output_throughput_tps": ("output_throughput", "output_token_throughput"),
    "total_throughput_tps": ("total_throughput", "total_token_throughput", "token_throughput"),
    "total_time_s": ("total_time", "duration", "total_duration"),
    "hit_ratio": ("cache_hit_rate", "hit_rate"),
}
UNKNOWN = Stat(n=0)
MOST = 2**53
"""What no figure reaches, in whichever unit; the next ones are no whole numbers of their own."""


def round_stats(values: Mapping[str, Any], place: str) -> RoundStats:
    """An old file's object as round stats; ToolError naming the key that is missing or wrong."""
    source = _Source(values=values, place=place)
    scenario = source.text("scenario")
    mean = source.number("avg_ttft", required=True)
    total = source.count("total_requests")
    failed = source.count("failed_requests")
    good = source.count("successful_requests")
    if good is None:
        good = (total or 0) - (failed or 0)
    return RoundStats(
        run=[],
        scenario=scenario,
        name=source.text("name", scenario),
        round_num=source.round_num(),
        endpoint_url=source.text("endpoint_url", "") or None,
        avg_ttft=mean,
        complete=True,
        total_requests=total if total is not None else good + (failed or 0),
        successful_requests=good,
        failed_requests=failed or 0,
        total_time_s=source.first(RATES["total_time_s"]),
        request_throughput_rps=source.first(RATES["request_throughput_rps"]),
        output_throughput_tps=source.first(RATES["output_throughput_tps"]),
        total_throughput_tps=source.first(RATES["total_throughput_tps"]),
        hit_ratio=source.first(RATES["hit_ratio"]),
        timings=_timings(source, mean, good),
    )


def _timings(source: _Source, mean_ttft: float | None, n: int) -> Timings:
    means = {name: source.first(names) for name, names in MEANS.items()} | {"ttft_s": mean_ttft}
    stats = {
        name: Stat(
            n=n,
            mean=mean,
            **{
                rank: source.first(tuple(form.format(WORDS[name]) for form in forms))
                for rank, forms in PERCENTILES.items()
            },
        )
        for name, mean in means.items()
    }
    rest = ("ttft_due_s", "itl_s", "queue_s", "second_token_s")
    return Timings(**stats, **dict.fromkeys(rest, UNKNOWN))


class _Source:
    """The object at its place in a file; complaints name both."""

    def __init__(self, *, values: Mapping[str, Any], place: str) -> None:
        self.values = values
        self.place = place

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def number(self, key: str, *, required: bool = False) -> float | None:
        if required and key not in self.values:
            raise self.wrong(key, "seconds")
        value = self.values.get(key)
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < MOST:
            raise self.wrong(key, "a number that is not negative")
        return float(value)

    def first(self, keys: tuple[str, ...]) -> float | None:
        """The first of several names that carries a number."""
        return next((found for key in keys if (found := self.number(key)) is not None), None)

    def count(self, key: str) -> int | None:
        value = self.number(key)
        return None if value is None else int(value)

    def round_num(self) -> int:
        value = self.values.get("round_num")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST:
            raise self.wrong("round_num", "a round's number, from 1")
        return value

    def wrong(self, key: str, wanted: str) -> ToolError:
        found = repr(self.values[key])[:40] if key in self.values else "missing"
        return ToolError(
            f"{self.place}: stats: '{key}' is {found}, but {wanted} is needed "
            "(kvreport reads kvstats' round stats, and old stats files with at least scenario, "
            "round_num and avg_ttft)"
        )
