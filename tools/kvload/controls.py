"""The controls between rounds: rest, the reset that tier `store` stands on, and warm-up's legs."""

from __future__ import annotations

from collections.abc import Sequence

from kvengine.engine import Engine
from kvengine.engines import ENGINES
from kvengine.rest import come_to_rest
from kvengine.saltprobe import SaltProbe
from kvengine.server import Server, Unreachable
from kvload.settings import Experiment
from kvload.site import Site, is_dead
from kvpipe.process import ToolError
from kvpipe.records import Barrier, Finding, Reset, SaltWay, Warmup


async def rest(site: Site) -> Barrier:
    """Wait until engines and stores are at rest, or say that it could not be seen."""
    nodes, stores = site.counting_nodes(), site.stores()
    if not nodes and not stores:
        return Barrier(state="unknown", waited_s=0.0, reason="no metrics to look at")
    if (why := await _gone(nodes)) is not None:
        return Barrier(state="unknown", waited_s=0.0, reason=why)
    return await come_to_rest(nodes, stores)


async def _gone(nodes: Sequence[Server]) -> str | None:
    """Why none of these will ever come to rest: a dead engine's gauges stay as they were."""
    for node in nodes:
        try:
            if await is_dead(node):
                return f"{node.shown}: the engine is dead (/health answers 503)"
        except Unreachable as error:
            return str(error)
    return None


async def reset_engines(site: Site) -> Reset:
    """Reset every engine's own prefix cache, and only that: the store keeps what it has."""
    answers: list[str] = []
    verdicts: list[bool | None] = []
    retries = 0
    for engine, server in _engines(site):
        try:
            outcome = await engine.clear(server)
        except Unreachable as error:
            answers.append(str(error))
            verdicts.append(False)
            continue
        answers.append(f"{server.shown}: {outcome.answer}")
        verdicts.append(outcome.ok)
        retries += outcome.retries
    ok = False if False in verdicts else None if None in verdicts else True
    return Reset(answers=answers, retries=retries, ok=ok)


async def preflight_reset(site: Site) -> None:
    """Try the reset before anything is measured; ToolError if it is refused."""
    reset = await reset_engines(site)
    if reset.ok is False:
        raise ToolError(
            f"--tier store needs the engine's own cache to be reset: {'; '.join(reset.answers)}"
            " (start vLLM with VLLM_SERVER_DEV_MODE=1, or name the engine behind a proxy with"
            " --engine KIND=URL)"
        )


def warmup_findings(warmup: Warmup | None) -> list[Finding]:
    """What the warm-up has to say of the round behind it."""
    if warmup is None or warmup.settled is not False:
        return []
    return [
        Finding(
            code="warmup_unstable",
            severity="warning",
            message=(
                f"TTFTs had not settled after {warmup.passes} warm-up passes: the first requests"
                " may measure the server's own warming"
            ),
            evidence={"passes": warmup.passes},
        )
    ]


def salt_findings(probe: SaltProbe | None, way: SaltWay) -> list[Finding]:
    """What the probe of `cache_salt` has to say of the rounds behind it."""
    if probe is None or probe.honoured is not False:
        return []
    return [
        Finding(
            code="salt_ignored",
            severity="warning",
            message=(
                f"cache_salt is ignored here ({probe.reason}): salts go to "
                + ("LMCache's tag" if way == "lmcache_tag" else "the head of the prompts")
            ),
            evidence={"field": "cache_salt", "ignored_by": probe.ignored_by, "used": way},
        )
    ]


def needs_reset(experiment: Experiment) -> bool:
    """Whether the engine's own cache is reset between cold and hit."""
    return experiment.tier == "store" and experiment.only_round is None


def _engines(site: Site) -> list[tuple[Engine, Server]]:
    """What is reset, and how: the named engines, else the endpoints as what they said they are."""
    if site.resetters:
        return site.resetters
    vllm = ENGINES["vllm"]
    return [(ENGINES.get(node.identity.engine, vllm), node.server) for node in site.nodes.values()]
