"""Gathers the requests that one fit may stand on: one engine, one at a time, untainted.

A fit is of one endpoint, since another node is another engine; all scenarios and rounds there count
together, so that several lengths come from several scenarios as well as from one. Files with labels
stay apart: who labels them says that they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvengine.exposition import labels_of, name_of
from kvpipe.records import Samples
from kvreport.efficiency_line import SOURCES, Rows, Source
from kvreport.experiments import Experiment, Repeat
from kvreport.placed import Placed
from kvreport.rounds import Round

if TYPE_CHECKING:
    from kvreport.conclusion import Scenario

Key = tuple[str | None, ...]
ONE_HIT = "ttft_s:cold_strata"
"""TTFT over leaders and uniques, as findings name it that touch only some effects."""
LOADED_BYTES = "store_operation_bytes_total"
"""Ends the name of what an engine's connector counts its loads in."""


@dataclass(slots=True)
class Columns:
    """Rows on their way; `arm` and `scenario` are for residuals and savings."""

    ttft_s: list[float] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)
    uncached: list[float] = field(default_factory=list)
    cached: dict[Source, list[float]] = field(
        default_factory=lambda: {name: [] for name in SOURCES}
    )
    repeat: list[int] = field(default_factory=list)
    group: list[tuple[str, str]] = field(default_factory=list)
    hit_of: list[str | None] = field(default_factory=list)

    def hits(self, kept: npt.NDArray[np.bool_]) -> list[str | None]:
        return [one for one, stays in zip(self.hit_of, kept, strict=True) if stays]

    def rows(self) -> Rows:
        places = {one: at for at, one in enumerate(dict.fromkeys(self.group))}
        return Rows(
            ttft_s=np.array(self.ttft_s),
            prompt=np.array(self.prompt),
            uncached=np.array(self.uncached),
            cached={name: np.array(values) for name, values in self.cached.items()},
            repeat=np.array(self.repeat, dtype=np.int64),
            group=np.array([places[one] for one in self.group], dtype=np.int64),
        )


@dataclass(slots=True)
class Ground:
    """What one fit stands on. `untold` are successes without token counts."""

    name: str
    endpoint: str | None
    model: str | None
    simulated: bool = False
    scenarios: list[str] = field(default_factory=list)
    columns: Columns = field(default_factory=Columns)
    hits: bool = False
    serial: bool = False
    untold: int = 0
    tainted: list[str] = field(default_factory=list)
    by_request: int = 0
    by_round: int = 0
    loaded_bytes: float = 0.0
    loaded_tokens: float = 0.0

    @property
    def bytes_per_token(self) -> float | None:
        """From the engine's own counters: bytes loaded by tokens loaded; null if not told."""
        if self.loaded_bytes <= 0 or self.loaded_tokens <= 0:
            return None
        return self.loaded_bytes / self.loaded_tokens


def grounds(experiments: Sequence[Experiment], scenarios: Sequence[Scenario]) -> list[Ground]:
    """Every endpoint that served hits, in the order of reading."""
    found: dict[Key, Ground] = {}
    for experiment, scenario in zip(experiments, scenarios, strict=True):
        for repeat in experiment.repeats:
            for role, one in _roles(repeat):
                if one.stats.samples is not None and one.run is not None:
                    _add(found, experiment, scenario, role, one)
    return [one for one in found.values() if one.hits]


def _roles(repeat: Repeat) -> Iterator[tuple[str, Round]]:
    yield from (("cold", one) for one in repeat.of("cold"))
    yield from (("hit", one) for one in repeat.of("hit"))
    yield from ((f"round {one.number}", one) for one in repeat.later)
    yield from (("no_reuse", one) for one in repeat.no_reuse)


def _add(
    found: dict[Key, Ground], experiment: Experiment, scenario: Scenario, role: str, one: Round
) -> None:
    run = one.run
    assert run is not None
    url = (one.endpoint or "").rstrip("/").removesuffix("/v1")
    key = (one.label, url, run.model, run.engine, run.engine_version, run.api)
    ground = found.setdefault(
        key,
        Ground(
            name=f"{one.label} ({url})" if one.label else url,
            endpoint=one.endpoint,
            model=run.model,
        ),
    )
    if experiment.name not in ground.scenarios:
        ground.scenarios.append(experiment.name)
    ground.simulated = ground.simulated or one.simulated
    ground.hits = ground.hits or one.arm == "hit"
    codes = _taints(scenario.findings, role, one)
    if codes:
        ground.tainted += [code for code in codes if code not in ground.tainted]
        return
    if not one.serial:
        return
    ground.serial = True
    _add_requests(ground, experiment, one)
    _add_loads(ground, one)


def _taints(findings: Sequence[Placed], role: str, one: Round) -> list[str]:
    """Codes that make a round's TTFT, or its token counts, unfit.

    Drift counts where it touches what one hit is worth, which is what the fit takes apart.
    """
    codes: list[str] = []
    for placed in findings:
        code = placed.finding.code
        ttft = not placed.effects or ONE_HIT in placed.effects
        here = one.repeat in placed.repeats and (not placed.rounds or role in placed.rounds)
        unfit = placed.finding.severity == "invalid" or code == "pd_transfer"
        if here and ttft and unfit and code != "plan_differs":
            codes.append(code)
    return codes


def _add_requests(ground: Ground, experiment: Experiment, one: Round) -> None:
    samples = one.stats.samples
    assert samples is not None
    columns = ground.columns
    for at, ok in enumerate(samples.ok):
        ttft, prompt = samples.ttft_s[at], samples.prompt_tokens[at]
        if not ok or not ttft:
            continue
        split = _split(samples, at, one)
        if prompt is None or split is None:
            ground.untold += 1
            continue
        sources, by_request = split
        total = sum(sources.values())
        ground.by_request += by_request and total > 0
        ground.by_round += not by_request and total > 0
        columns.ttft_s.append(ttft)
        columns.prompt.append(prompt)
        columns.uncached.append(max(0, prompt - total))
        for name in SOURCES:
            columns.cached[name].append(sources.get(name, 0))
        columns.repeat.append(one.repeat)
        columns.group.append(_group(samples, at, experiment, one.repeat))
        hit = one.arm == "hit" and samples.stratum[at] != "sentinel"
        columns.hit_of.append(experiment.name if hit else None)


def _group(samples: Samples, at: int, experiment: Experiment, repeat: int) -> tuple[str, str]:
    group = samples.group[at]
    if samples.stratum[at] in ("unique", "sentinel") or group is None:
        return experiment.name, f"{repeat}#{samples.index[at]}"
    return experiment.name, f"{repeat}={group}"


def _split(samples: Samples, at: int, one: Round) -> tuple[dict[Source, int], bool] | None:
    """Cached tokens by source, and whether the request itself told; None: no counts at all.

    Where it did not, leaders and uniques had theirs from the tier that served the round, by its
    evidence, and followers from the engine's own cache, which their leader had filled.
    """
    external: Source = "remote" if one.arm == "hit" and _tier(one) == "remote" else "store"
    cached = samples.cached_tokens[at]
    local = samples.cached_local_tokens[at] if samples.cached_local_tokens else None
    remote = samples.cached_remote_tokens[at] if samples.cached_remote_tokens else None
    if local is not None and remote is not None:
        return {"local": local, external: remote}, True
    if cached is None:
        return None
    if not cached:
        return {}, True
    served = one.stats.tier_served
    if samples.stratum[at] in ("follower", "sentinel") and (served in ("local", "store", "remote")):
        return {"local": cached}, False
    by_tier: dict[str | None, Source] = {"local": "local", "store": "store", "remote": "remote"}
    return {by_tier.get(served, "cached"): cached}, False


def _tier(one: Round) -> str | None:
    return one.run.tier if one.run else None


def _add_loads(ground: Ground, one: Round) -> None:
    """What the engine's connector says of its loads: bytes, beside the tokens that they were."""
    external = one.stats.served.external if one.stats.served else None
    if not external:
        return
    loaded = sum(
        change
        for server in one.stats.server
        if server.endpoint_url is not None
        for series, change in server.deltas.items()
        if name_of(series).endswith(LOADED_BYTES)
        and labels_of(series).get("operation") == "load_get"
    )
    if loaded > 0:
        ground.loaded_bytes += loaded
        ground.loaded_tokens += external
