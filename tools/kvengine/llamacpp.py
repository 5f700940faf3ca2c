"""llama.cpp's server: every slot is erased; its prompt cache in host memory survives that.

Erasing needs --slots (on by default) and --slot-save-path. The prompt cache (--cache-ram, on by
default) gives an erased prompt back; only --cache-ram 0 or a restart is cold. Facts are from the
server's own documentation and source (tools/server at 00dc8057) and from discussion #30746; never
run against a real llama.cpp. Counters need --metrics.
"""

from __future__ import annotations

import json

from kvengine.engine import Engine, Formula, Outcome, term
from kvengine.server import Server
from kvpipe.jsonl import NOT_JSON, json_object

COUNTERS: dict[str, Formula] = {
    # Those that were processed; what came from a cache is not among them.
    "computed_tokens": ((term("llamacpp:prompt_tokens_total"),),),
    "generation_tokens": ((term("llamacpp:tokens_predicted_total"),),),
}

GAUGES: dict[str, Formula] = {
    "running": ((term("llamacpp:requests_processing"),),),
    "waiting": ((term("llamacpp:requests_deferred"),),),
    "kv_usage_ratio": ((term("llamacpp:kv_cache_usage_ratio"),),),
}

SURVIVES = (
    "the prompt cache in host memory survives an erase: only --cache-ram 0 or a restart makes this "
    "server cold"
)


async def clear(server: Server) -> Outcome:
    """Erase every slot; true only if each says that it was. Raises Unreachable."""
    answer = await server.get("/slots")
    slots = slot_ids(answer.text) if answer.ok else None
    if not slots:
        return Outcome(False, answer.short(), 0)
    tokens, parts = 0, []
    for slot in slots:
        erased = await server.post(f"/slots/{slot}", params={"action": "erase"})
        count = erased_tokens(erased.text, slot) if erased.ok else None
        tokens += count or 0
        if count is None:
            parts.append(f"{erased.short()} (slot {slot})")
    if parts:
        return Outcome(False, f"{'; '.join(parts)}; of {len(slots)} slots", 0)
    return Outcome(True, f"200 {len(slots)} slots erased, {tokens} tokens", 0)


def slot_ids(text: str) -> list[int] | None:
    """The ids of all slots; null if the answer is no list of them."""
    try:
        value = json.loads(text)
    except NOT_JSON:
        return None
    if not isinstance(value, list):
        return None
    ids = [slot.get("id") for slot in value if isinstance(slot, dict)]
    return [number for number in ids if isinstance(number, int)]


def erased_tokens(text: str, slot: int) -> int | None:
    """Tokens that the answer says were erased from this slot; null if it does not say so."""
    value = json_object(text)
    if value.get("id_slot") != slot:
        return None
    count = value.get("n_erased")
    return count if isinstance(count, int) else None


def advice(outcome: Outcome) -> str:
    """What survives, or what to do; there is always something."""
    if outcome.ok:
        return SURVIVES
    if outcome.answer.startswith("501"):
        return f"start it with --slots and --slot-save-path DIR; {SURVIVES}"
    if outcome.answer.startswith("404"):
        return "no such route: name llama.cpp's own server"
    return f"stop the load, try again; {SURVIVES}"


ENGINE = Engine(
    kind="llamacpp",
    tier="engine",
    clears="erase slots",
    request="POST /slots/ID?action=erase for every slot",
    clear=clear,
    advice=advice,
    counters=COUNTERS,
    gauges=GAUGES,
)
