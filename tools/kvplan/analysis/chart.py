"""Hit ratio against capacity, as a PNG, without a display."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from kvpipe.records import Analysis, BlockSize

# Okabe and Ito's colours (2008), which colour-blind readers can tell apart; width, dashes and marks
# tell the lines apart without any colour, also where they lie upon each other.
LOOKS = (
    ("#0072B2", "-", "o", 5.0),
    ("#E69F00", "-", "s", 3.0),
    ("#009E73", "--", "^", 1.8),
    ("#000000", ":", "D", 1.0),
    ("#CC79A7", "-.", "v", 0.8),
)
SIZE_INCHES = (9.0, 5.0)
DPI = 120


def png(found: Analysis) -> bytes:
    """The chart of one analysis; its axis is GiB where a KV size was named, else tokens."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {"font.size": 9, "text.parse_math": False}
    with mpl.rc_context(settings):
        figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw(axes, found)
        out = BytesIO()
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw(axes: Any, found: Analysis) -> None:
    unit = 1.0 if found.kv is None else 2**30 / found.kv.bytes_per_token
    for at, size in enumerate(found.sizes):
        colour, dashes, mark, width = LOOKS[at % len(LOOKS)]
        rooms, shares = _line(size, unit)
        label = f"blocks of {size.block_tokens}"
        axes.plot(
            rooms, shares, dashes, color=colour, marker=mark, markersize=width + 2,
            linewidth=width, label=label,
        )  # fmt: skip
    ideal = 100 * found.sizes[0].ideal.hit_ratio
    axes.axhline(ideal, color="#222222", linewidth=0.8, linestyle=(0, (1, 3)))
    axes.annotate(
        f"no limit: {ideal:.1f} %", (0.01, ideal), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points",
    )  # fmt: skip
    for point in found.sizes[0].named:
        room = (point.capacity_tokens or 0) / unit
        axes.axvline(room, color="#8C8C8C", linewidth=0.8)
        axes.annotate(
            point.name or "", (room, 0.99), xycoords=("data", "axes fraction"), rotation=90,
            va="top", ha="right",
        )  # fmt: skip
    axes.set_xscale("log", base=2 if found.kv is None else 10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, which="major")
    of = "" if found.kv is None else f" ({found.kv.name})"
    axes.set_xlabel(f"capacity of the cache in {'tokens' if found.kv is None else 'GiB'}{of}")
    axes.set_ylabel("hit ratio in % of the prompt tokens")
    axes.set_title(
        f"{found.scenario}: hit ratio of an LRU cache, {found.order} "
        f"(n = {found.requests:,} requests, {found.prompt_tokens:,} prompt tokens)"
    )
    axes.legend(loc="lower right", frameon=False)


def _line(size: BlockSize, unit: float) -> tuple[list[float], list[float]]:
    points = [(point.capacity_tokens or 0, point.hit_ratio) for point in size.curve]
    return [room / unit for room, _ in points], [100 * share for _, share in points]
