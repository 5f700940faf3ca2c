"""Who sends token 1 of a disaggregated endpoint, by evidence; TTFTs of the two are not comparable.

`vllm`: the decoder, after it has loaded the KV (vLLM's toy proxy, MooncakeConnector's,
production-stack, llm-d). TTFT holds the transfer.
`lmcache`: the prefiller, before the transfer (LMCache's proxy). The first gap holds it, not TTFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kvpipe.records import Run, Timings
from kvstats.servers import Serving, total

Name = Literal["vllm", "lmcache"]
CLEAR = 1.5  # a first gap so many times the mean gap holds something that the others do not
NEAR = 0.9  # the decoder's own TTFT and the first gap have different ends: a network apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The flow, how it is known, and what that stands on."""

    name: Name
    how: Literal["asked", "tokens", "timing"]
    evidence: str

    def told(self) -> dict[str, Any]:
        return {"name": self.name, "how": self.how, "evidence": self.evidence}


def flow_of(serving: Serving, runs: list[Run], seen: Timings) -> Flow | None:
    """As the servers counted, else as the gaps look, else as `--pd-flow` says; null: not known.

    Evidence beats the flag: a flag can be forgotten in a script.
    """
    if not serving.disaggregated and _asked(runs) is None:
        return None
    return _by_tokens(serving) or _by_timing(serving, seen) or _asked(runs)


def _by_tokens(serving: Serving) -> Flow | None:
    """A decoder behind LMCache's proxy is sent the prompt and the prefiller's token behind it."""
    counts = [
        (total(servers, "prompt_tokens"), total(servers, "requests"), total(servers, "preemptions"))
        for servers in (serving.prefill, serving.decode)
    ]
    (before, begun, _), (after, asked, preempted) = counts
    if not begun or begun != asked or before is None or after is None or preempted:
        return None
    more = after - before
    if more not in (0, asked):
        return None
    said = f"prefillers counted {before:,.0f} prompt tokens, decoders {after:,.0f}"
    if more == 0:
        return Flow(name="vllm", how="tokens", evidence=said)
    return Flow(name="lmcache", how="tokens", evidence=f"{said}: one more for each request")


def _by_timing(serving: Serving, seen: Timings) -> Flow | None:
    """Whether the first gap, seen here, has room for what the decoder did before its own token."""
    own, gap, mean_gap = decoder_ttft_s(serving), seen.second_token_s.mean, seen.tpot_s.mean
    if own is None or gap is None or not mean_gap:
        return None
    said = f"first gap {gap * 1e3:,.1f} ms, the decoder's own TTFT {own * 1e3:,.1f} ms"
    if gap >= NEAR * own and gap >= CLEAR * mean_gap:
        return Flow(name="lmcache", how="timing", evidence=said)
    if own >= CLEAR * gap:
        return Flow(name="vllm", how="timing", evidence=said)
    return None


def decoder_ttft_s(serving: Serving) -> float | None:
    """Mean of the decoders' own TTFT: from a request's arrival there to their first token."""
    seconds, count = total(serving.decode, "ttft_sum_s"), total(serving.decode, "ttft_count")
    return seconds / count if seconds is not None and count and count > 0 else None


def _asked(runs: list[Run]) -> Flow | None:
    """What every run was told with `--pd-flow`."""
    named = {run.config.get("pd_flow") for run in runs}
    for name in ("vllm", "lmcache"):
        if named == {name}:
            return Flow(name=name, how="asked", evidence="--pd-flow")
    return None
