"""kvsim does what its OpenAPI document says: schemathesis asks, with good requests and bad ones."""

from __future__ import annotations

import json

import pytest
from tests.fuzz.schemathesis import COMMAND, INSTANT, NODES, held_to_its_document
from tests.simulated import kvsim

from kvsim.intake import read_ask
from kvsim.node import Node
from kvsim.openapi import document
from kvsim.options import NodeOptions

ABSENT = (
    "SCHEMATHESIS IS NOT INSTALLED: kvsim is not held to its OpenAPI document (make schemathesis)"
)


@pytest.mark.skipif(not COMMAND.exists(), reason=ABSENT)
@pytest.mark.parametrize("flags", [NODES["a node"], NODES["flat"]], ids=["a node", "flat"])
def test_kvsim_answers_as_its_document_says(flags: tuple[str, ...]) -> None:
    with kvsim(*INSTANT, *flags) as sim:
        verdict = held_to_its_document(sim.url, 3, seed=1, limit_s=300)
    assert verdict.ok, verdict.said
    assert verdict.cases > 100, verdict.said


def test_the_document_tells_of_every_route() -> None:
    for options in (NodeOptions(), NodeOptions(dev_mode=False)):
        routes = Node(options, "here:1")._all_routes()
        del routes["/openapi.json"]
        told = document(options)["paths"]
        assert {path: sorted(map(str.lower, ways)) for path, ways in routes.items()} == {
            path: sorted(ways) for path, ways in told.items()
        }


def test_the_document_is_served() -> None:
    with kvsim(*INSTANT) as sim:
        served = json.loads(sim.get("/openapi.json"))
    assert served == document(NodeOptions())


def test_what_the_document_asks_for_is_what_is_read() -> None:
    """The least that each schema requires is enough, and each limit is the one that is held."""
    schemas = document(NodeOptions())["components"]["schemas"]
    assert schemas["ChatRequest"]["required"] == ["messages"]
    assert schemas["TextRequest"]["required"] == ["prompt"]
    chat = {"messages": [{"role": "user", "content": "a"}]}
    assert read_ask(chat, True, NodeOptions(), None).n == 1
    most = schemas["TextRequest"]["properties"]["n"]["maximum"]
    assert read_ask({"prompt": "a", "n": most}, False, NodeOptions(), None).n == most
