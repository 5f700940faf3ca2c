"""What a hit is worth by the token: prefill speed, load speed, and where the one beats the other.

Every figure is null where the data cannot tell it, with the code of the reason; see
`efficiency_fit` for the line that they follow from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kvreport.efficiency_fit import fit, held_out, levels, usable
from kvreport.efficiency_line import SOURCES, Fit, Floats, Refused, Rows, Source, Span
from kvreport.efficiency_rows import Ground, grounds
from kvreport.efficiency_worth import (
    BreakEven,
    Figure,
    break_even,
    figure,
    inverse,
    load_cost,
    prefill_cost,
    worth_loading,
)
from kvreport.experiments import Experiment

if TYPE_CHECKING:
    from kvreport.conclusion import Scenario

Split = Literal["requests", "rounds", "both"]
FEW = 3
"""Requests of a kind, or of a length, below which nothing is said of it."""


class Residual(msgspec.Struct, frozen=True, kw_only=True):
    """How far measured TTFTs lie from the fit, relative to it, over requests of one kind."""

    kind: str
    requests: int
    mean: float
    spread: float


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """One length predicted by a fit of all the others; `error` is predicted by measured less 1."""

    tokens: float
    kind: str
    requests: int
    measured_s: float
    predicted_s: float
    error: float


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of prefill that a scenario's hits save one engine in 1,000 of its requests."""

    scenario: str
    seconds: Figure


class Efficiency(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint's. Without a fit `reasons` says why, and there are no figures."""

    name: str
    endpoint_url: str | None
    model: str | None
    simulated: bool
    scenarios: list[str]
    requests: int
    lengths: list[float]
    reasons: list[str]
    tainted: list[str] = []
    split: Split | None = None
    scope: Literal["repeats", "run"] | None = None
    units: int | None = None
    figures: list[Figure] = []
    break_even: list[BreakEven] = []
    savings: list[Saving] = []
    residuals: list[Residual] = []
    held_out: list[HeldOut] = []
    bytes_per_token: float | None = None
    bytes_how: Literal["counters", "given"] | None = None

    def figure(self, name: str, source: str | None = None) -> Figure | None:
        found = (one for one in self.figures if (one.name, one.source) == (name, source))
        return next(found, None)


def efficiencies(
    experiments: Sequence[Experiment],
    scenarios: Sequence[Scenario],
    bytes_per_token: float | None = None,
) -> list[Efficiency]:
    """One for each endpoint that served hits; `bytes_per_token` as somebody knows it."""
    return [_of(one, bytes_per_token) for one in grounds(experiments, scenarios)]


def fitted(ground: Ground) -> tuple[Rows, Fit | Refused]:
    """The rows of an endpoint with their fit, or with the reason why there is none."""
    rows = ground.columns.rows()
    kept = usable(rows)
    rows, ground.columns.hit_of = rows.kept(kept), ground.columns.hits(kept)
    if not ground.serial:
        return rows, Refused("tainted" if ground.tainted else "load")
    if ground.untold > len(rows):
        return rows, Refused("no_tokens")
    if not any((rows.cached[name] > 0).any() for name in SOURCES):
        return rows, Refused("tainted" if ground.tainted else "no_hits")
    return rows, fit(rows)


def _of(ground: Ground, given: float | None) -> Efficiency:
    rows, found = fitted(ground)
    counted = ground.bytes_per_token
    bare = Efficiency(
        name=ground.name,
        endpoint_url=ground.endpoint,
        model=ground.model,
        simulated=ground.simulated,
        scenarios=ground.scenarios,
        requests=len(rows),
        lengths=levels(rows.prompt) if len(rows) else [],
        reasons=[found.reason] if isinstance(found, Refused) else [],
        tainted=ground.tainted,
        split=_how(ground),
        bytes_per_token=given or counted,
        bytes_how="given" if given else "counters" if counted else None,
    )
    if isinstance(found, Refused):
        return bare
    sources = [name for name in SOURCES if found.has(f"c_{name}")]
    longest = bare.lengths[-1]
    return msgspec.structs.replace(
        bare,
        scope="repeats" if found.method == "repeats" else "run",
        units=found.units,
        figures=[
            *_terms(found),
            *_speeds(found, sources, bare.lengths, bare.bytes_per_token),
        ],
        break_even=[break_even(found, name, longest) for name in sources if name != "local"],
        savings=_savings(ground, rows, found),
        residuals=[*_residuals(rows, found)],
        held_out=_held_out(rows, found, bare.lengths),
    )


def _how(ground: Ground) -> Split | None:
    if ground.by_request and ground.by_round:
        return "both"
    return "requests" if ground.by_request else "rounds" if ground.by_round else None


def _terms(found: Fit) -> list[Figure]:
    """The coefficients; one whose interval holds zero is no figure."""
    names = {"a": "base_s", "b": "per_token_s", "b2": "per_token2_s"}
    return [
        figure(
            names.get(name) or ("cached_s" if name.startswith("c_") else "load_s"),
            found.term(name),
            source=None if name in names else name.partition("_")[2],
            signed=name == "b2",
        )
        for name in found.terms
    ]


def _speeds(
    found: Fit, sources: Sequence[Source], lengths: Sequence[float], bytes_per_token: float | None
) -> list[Figure]:
    """Speeds at every measured length: prefill's, each tier's, and the link that would do."""
    made = []
    for tokens in lengths:
        made.append(inverse("prefill_tps", prefill_cost(found, tokens), at=tokens))
    for name in sources:
        if name == "local":
            continue
        own = found.term(f"c_{name}")
        made += _in_bytes("bandwidth", own, bytes_per_token, source=name)
        for tokens in lengths:
            made += _in_bytes(
                "load", load_cost(found, name, tokens), bytes_per_token, source=name, at=tokens
            )
            made += _in_bytes(
                "link", worth_loading(found, name, tokens), bytes_per_token, source=name, at=tokens
            )
    return made


def _in_bytes(
    stem: str, cost: Span, bytes_per_token: float | None, *, source: str, at: float | None = None
) -> list[Figure]:
    """A speed in tokens, and in bytes where the size of a token is known."""
    made = [inverse(f"{stem}_tps", cost, source=source, at=at)]
    if bytes_per_token:
        made.append(inverse(f"{stem}_bps", cost, source=source, at=at, times=bytes_per_token))
    return made


def _savings(ground: Ground, rows: Rows, found: Fit) -> list[Saving]:
    made = []
    for name in ground.scenarios:
        own = np.array([one == name for one in ground.columns.hit_of])
        if not own.any():
            continue
        prompt, uncached = rows.prompt[own], rows.uncached[own]
        weights = {"b": 1000 * float(np.mean(prompt - uncached))}
        if found.has("b2"):
            weights["b2"] = 1000 * float(np.mean(prompt**2 - uncached**2))
        made.append(
            Saving(scenario=name, seconds=figure("saved_s", found.contrast(weights), signed=False))
        )
    return made


def _kinds(rows: Rows) -> dict[str, npt.NDArray[np.bool_]]:
    """Requests by what most of their tokens were: computed, or from one of the tiers."""
    parts: dict[str, Floats] = {"computed": rows.uncached} | {
        one: rows.cached[one] for one in SOURCES
    }
    names = [*parts]
    most = np.argmax(np.column_stack([parts[name] for name in names]), axis=1)
    return {name: most == at for at, name in enumerate(names) if (most == at).any()}


def _residuals(rows: Rows, found: Fit) -> list[Residual]:
    size = np.maximum(found.fitted, float(np.min(rows.ttft_s)) / 2)
    relative = (rows.ttft_s - found.fitted) / size
    everybody = {"all": np.ones(len(rows), dtype=bool)}
    return [
        Residual(
            kind=kind,
            requests=int(own.sum()),
            mean=float(np.mean(relative[own])),
            spread=float(np.sqrt(np.mean(relative[own] ** 2))),
        )
        for kind, own in (everybody | _kinds(rows)).items()
        if own.sum() >= FEW
    ]


def _held_out(rows: Rows, found: Fit, lengths: Sequence[float]) -> list[HeldOut]:
    """Every length as the others predict it; nothing where too few would be left."""
    if len(lengths) < FEW:
        return []
    nearest = np.argmin(np.abs(np.log(rows.prompt[:, None] / np.array(lengths)[None])), axis=1)
    made: list[HeldOut] = []
    for at, tokens in enumerate(lengths):
        out = nearest == at
        predicted = held_out(rows, out, found.terms)
        if predicted is None:
            continue
        measured: Floats = rows.ttft_s[out]
        for kind, own in _kinds(rows.kept(out)).items():
            if own.sum() < FEW:
                continue
            real, said = float(np.mean(measured[own])), float(np.mean(predicted[own]))
            made.append(
                HeldOut(
                    tokens=tokens,
                    kind=kind,
                    requests=int(own.sum()),
                    measured_s=real,
                    predicted_s=said,
                    error=said / real - 1,
                )
            )
    return made
