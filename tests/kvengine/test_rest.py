"""The barrier, against pages that change as those of real servers do."""

import re

from tests.kvengine.conftest import Reply, capture

from kvengine.rest import come_to_rest
from kvengine.server import Server

NODE = capture("vllm_metrics_nodeB_mooncakestore.txt")
STORE = capture("mooncake_metrics_vllm_1_after_A.txt")


def with_gauge(name: str, value: float) -> str:
    return re.sub(rf"(?m)^({re.escape(name)}\S*) .*$", rf"\1 {value}", NODE)


RUNNING = with_gauge("vllm:num_requests_running", 1.0)
SAVING = NODE.replace(
    'operation="save_put",status="ok"} 66.0', 'operation="save_put",status="ok"} 65.0'
)
FEWER = STORE.replace("master_key_count 21", "master_key_count 20")
OPEN = STORE.replace("mem_cache_nums_ 21", "mem_cache_nums_ 20")


async def barrier(serve, node: list[str], store: list[str] | None, timeout_s: float = 5.0):
    nodes = (await serve()).on("GET /metrics", *map(Reply, node))
    stores = await serve()
    if store:
        stores.on("GET /metrics", *map(Reply, store))
    async with Server(nodes.url) as one, Server(stores.url) as other:
        found = await come_to_rest(
            [one], [] if store is None else [other], timeout_s=timeout_s, looks_s=0.02
        )
    return found, len(nodes.asked)


async def test_two_equal_looks_are_rest(serve) -> None:
    found, looks = await barrier(serve, [NODE], [STORE])
    assert (found.state, looks) == ("quiet", 2)
    assert "store_keys" in found.reason


async def test_a_running_request_or_a_save_or_a_new_key_starts_the_wait_anew(serve) -> None:
    _, looks = await barrier(serve, [RUNNING, NODE], [STORE])
    assert looks == 3
    _, looks = await barrier(serve, [SAVING, NODE], [STORE])
    assert looks == 3
    _, looks = await barrier(serve, [NODE], [FEWER, STORE])
    assert looks == 3


async def test_a_key_whose_save_has_not_ended_is_no_rest(serve) -> None:
    """Mooncake counts a key when its save begins, and until it ends no removal removes it."""
    _, looks = await barrier(serve, [NODE], [OPEN, OPEN, STORE])
    assert looks == 4
    found, _ = await barrier(serve, [NODE], [OPEN], timeout_s=0.1)
    assert (found.state, found.reason) == ("unknown", "1 keys still being saved")


async def test_who_never_rests_is_unknown(serve) -> None:
    found, _ = await barrier(serve, [RUNNING], [STORE], timeout_s=0.1)
    assert (found.state, found.reason) == ("unknown", "1 requests still running")
    assert found.waited_s <= 5


async def test_what_cannot_be_seen_is_unknown_at_once(serve) -> None:
    found, _ = await barrier(serve, ["no metrics"], None, timeout_s=60)
    assert found.state == "unknown" and "no metrics" in found.reason
    found, _ = await barrier(serve, [NODE], [], timeout_s=60)
    assert found.state == "unknown" and "store" in found.reason
