"""Does one node find what another stored, and if not, why not?"""

from __future__ import annotations

from collections.abc import Iterator

from kvdoctor.evidence import Crossing, Evidence, hit_tokens
from kvdoctor.rules.behind import CONNECTOR, lacks_connector, nothing_saved, other_store
from kvdoctor.rules.rule import Rule, Seen


def remote_miss(evidence: Evidence) -> Iterator[Seen]:
    """What the first endpoint stored, another one does not find."""
    for crossing in evidence.crossings:
        hit = hit_tokens(crossing.told)
        if crossing.told.refused or hit is None or hit >= crossing.needed_tokens:
            continue
        cause, change = _cause(evidence, crossing)
        yield Seen(
            where=crossing.where,
            seen=f"a prompt that {crossing.source} had stored hit {hit:g} tokens here; at least"
            f" {crossing.needed_tokens} were to be expected: {cause}",
            change=change,
            evidence={"hit_tokens": hit, "needed_tokens": crossing.needed_tokens},
        )


def _cause(evidence: Evidence, crossing: Crossing) -> tuple[str, str]:
    """The nearest cause that the evidence shows, and what to do about it."""
    by_url = {node.where: node for node in evidence.nodes}
    for url in (crossing.where, crossing.source):
        if lacks_connector(evidence, by_url[url]):
            return f"{url} has no connector", f"start it with {CONNECTOR}"
    if len(_sizes(evidence)) > 1:
        return "the nodes' blocks are of different sizes", "see block_size_differs"
    codes = {
        "nothing was saved": (nothing_saved, "see nothing_saved"),
        "the nodes use different stores": (other_store, "see other_store"),
        "the nodes name equal blocks differently": (hash_seed_differs, "see hash_seed_differs"),
        "the nodes' keys name different deployments": (keys_differ, "see keys_differ"),
    }
    for cause, (rule, change) in codes.items():
        if any(rule(evidence)):
            return cause, change
    return (
        "no cause shows from outside",
        "name the store with --engine mooncake=http://MASTER:9003, so that its keys can be"
        " compared; use one PYTHONHASHSEED, one model directory name and one --block-size on all"
        " nodes, and routable addresses between them",
    )


def _both(crossing: Crossing) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Listed keys of one prompt by the two nodes, where both stored it anew."""
    if (hit_tokens(crossing.told) or 0) >= crossing.needed_tokens:
        return
    for theirs, ours in zip(crossing.from_source, crossing.from_here, strict=False):
        if theirs.appeared and ours.appeared:
            yield theirs.appeared, ours.appeared


def _deployments(keys: frozenset[str]) -> set[str]:
    """Keys without the hash at their end."""
    return {key.rpartition("@")[0] for key in keys}


def hash_seed_differs(evidence: Evidence) -> Iterator[Seen]:
    """One prompt, two nodes, two sets of names."""
    if len(_sizes(evidence)) > 1:
        return  # that alone gives other names
    for crossing in evidence.crossings:
        for theirs, ours in _both(crossing):
            if _deployments(theirs) & _deployments(ours) and not theirs & ours:
                yield Seen(
                    where=crossing.where,
                    seen=f"{crossing.source} stored a prompt under {len(theirs)} keys, and the same"
                    f" prompt came to {len(ours)} other keys here: only the hashes at their ends"
                    " differ",
                    change="set the same PYTHONHASHSEED (0, for instance) in every node's"
                    " environment: vLLM up to 0.27 and LMCache inside the engine need it; from"
                    " vLLM 0.33 on use the same --prefix-caching-hash-algo sha256 everywhere",
                    evidence={"theirs": sorted(theirs)[:2], "ours": sorted(ours)[:2]},
                )


def _sizes(evidence: Evidence) -> set[int]:
    """Block sizes of the endpoints, as far as they tell."""
    return {node.config.block_tokens for node in evidence.endpoints if node.config.block_tokens}


def keys_differ(evidence: Evidence) -> Iterator[Seen]:
    """One prompt, two nodes, two deployments in the keys."""
    for crossing in evidence.crossings:
        for theirs, ours in _both(crossing):
            mine, other = _deployments(ours), _deployments(theirs)
            if not mine & other:
                yield Seen(
                    where=crossing.where,
                    seen=f"keys of one prompt begin with {min(other)!r} there and {min(mine)!r}"
                    " here",
                    change="use one model directory name, one tensor parallel size and one"
                    " cache_prefix (kv_connector_extra_config) on all nodes",
                    evidence={"theirs": sorted(other), "ours": sorted(mine)},
                )


RULES = (
    Rule(
        code="remote_miss",
        severity="warning",
        asks="the first endpoint's prompt on each other one",
        means="Tier `remote` cannot hit: round 2 on this node would be cold.",
        judge=remote_miss,
    ),
    Rule(
        code="hash_seed_differs",
        severity="warning",
        asks="the keys of one prompt by two nodes",
        means="Equal blocks have different names: the store holds everything twice and nobody"
        " finds the other's.",
        judge=hash_seed_differs,
    ),
    Rule(
        code="keys_differ",
        severity="warning",
        asks="what stands before the hash in those keys",
        means="The store takes the nodes for different deployments: they share nothing.",
        judge=keys_differ,
    ),
)
