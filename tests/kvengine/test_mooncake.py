"""Masters that do not lead, and masters without remove_all, whose client is a stand-in here.

Roles and leaders are after the source of 0.3.13.post1, which answers `leader` and `serving` where
there is no HA. The real client is tried in tests/real/test_mooncake_client.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.kvengine.conftest import Reply, capture

from kvclear.stores import Keys, open_pool
from kvengine import mooncake
from kvengine.server import Server
from kvpipe.process import ToolError

REMOVE = "POST /api/v1/remove_all"
METRICS = Reply(capture("mooncake_metrics_vllm_1_after_A.txt"))
KEYS = Reply(capture("mooncake_get_all_keys_vllm.txt"))
FIRST = min(KEYS.text.split())
LEADER = '{"present":true,"leader_address":"10.0.0.7:50051","view_version":3}'
NOBODY = '{"present":false,"leader_address":null,"view_version":null}'

CLIENT = '''
import os, sys

class MooncakeDistributedStore:
    """Has one key, and writes what it was asked."""

    def setup(self, *args):
        print("a library that prints to stdout")
        self.asked = [list(args[1:])]
        return int(os.environ.get("STAND_IN_SETUP", "0"))

    def is_exist(self, key):
        return int(key == os.environ["STAND_IN_KEY"])

    def remove_all(self, *force):
        if force and os.environ.get("STAND_IN_OLD"):
            raise TypeError("remove_all() takes 1 positional argument but 2 were given")
        if os.environ.get("STAND_IN_CRASH"):
            os._exit(139)
        print("forced" if force else "unforced", file=open(os.environ["STAND_IN_LOG"], "a"))
        return int(os.environ.get("STAND_IN_REMOVED", "21"))

    def close(self):
        print("closed", file=open(os.environ["STAND_IN_LOG"], "a"))
'''


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A client library to import; the log of what it was told to do."""
    package = tmp_path / "mooncake"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "store.py").write_text(CLIENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_KEY", FIRST)
    log = tmp_path / "log"
    log.write_text("")
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    return log


async def older_master(serve, monkeypatch: pytest.MonkeyPatch) -> str:
    """The admin URL of a master that has everything but remove_all."""
    replay = (await serve()).on("GET /metrics", METRICS).on("GET /get_all_keys", KEYS)
    monkeypatch.setenv("MOONCAKE_MASTER", replay.url.removeprefix("http://"))
    return str(replay.url)


async def test_an_older_master_is_emptied_through_its_client(serve, stand_in, monkeypatch) -> None:
    async with Server(await older_master(serve, monkeypatch)) as server:
        outcome = await mooncake.clear(server)
    assert outcome.ok is True and "removed 21 objects" in outcome.answer
    assert stand_in.read_text().split() == ["forced", "closed"]


async def test_a_client_without_force_removes_what_it_can(serve, stand_in, monkeypatch) -> None:
    monkeypatch.setenv("STAND_IN_OLD", "1")
    async with Server(await older_master(serve, monkeypatch)) as server:
        assert (await mooncake.clear(server)).ok is True
    assert stand_in.read_text().split() == ["unforced", "closed"]


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("STAND_IN_KEY", "of another store", "is another store"),
        ("STAND_IN_SETUP", "-600", "could not join (code -600)"),
        ("STAND_IN_REMOVED", "-1", "remove_all answered -1"),
        ("STAND_IN_CRASH", "1", "ended with status 139"),
        ("MOONCAKE_MASTER", "127.0.0.1:1", "connection refused"),
        ("MOONCAKE_MASTER", "nonsense", "no HOST:PORT"),
    ],
)
async def test_a_client_that_fails_is_a_failure(
    serve, stand_in, monkeypatch, variable: str, value: str, says: str
) -> None:
    async with Server(await older_master(serve, monkeypatch)) as server:
        monkeypatch.setenv(variable, value)
        outcome = await mooncake.clear(server)
    assert outcome.ok is False and says in outcome.answer
    assert "forced" not in stand_in.read_text() or variable == "STAND_IN_REMOVED"
    assert mooncake.advice(outcome)


async def test_without_the_client_it_says_how_to_install_it(serve, stand_in, monkeypatch) -> None:
    (stand_in.parent / "mooncake" / "store.py").unlink()
    async with Server(await older_master(serve, monkeypatch)) as server:
        outcome = await mooncake.clear(server)
    assert outcome.ok is False
    assert "pip install mooncake-transfer-engine-non-cuda" in outcome.answer


async def test_the_metadata_server_is_never_taken_for_a_master(serve, stand_in) -> None:
    """It has neither a key count nor keys, so no client is started for it."""
    replay = (await serve()).on("GET /health", Reply("OK"))
    async with Server(replay.url) as server:
        outcome = await mooncake.clear(server)
        with pytest.raises(ToolError, match="no mooncake store answers here"):
            await open_pool(mooncake.ENGINE, server, [], everyone=False)
    assert outcome.ok is False and "9003" in (mooncake.advice(outcome) or "")
    assert stand_in.read_text() == ""
    assert not [asked for asked in replay.asked if "metadata" in asked]


async def test_an_empty_older_store_needs_no_client(serve, stand_in, monkeypatch) -> None:
    replay = (await serve()).on("GET /metrics", METRICS).on("GET /get_all_keys", Reply(""))
    async with Server(replay.url) as server:
        assert (await mooncake.clear(server)).ok is True
    assert stand_in.read_text() == ""


def test_the_rpc_address_is_the_masters_host_unless_named(monkeypatch) -> None:
    monkeypatch.delenv("MOONCAKE_MASTER", raising=False)
    assert mooncake.rpc_address(Server("http://10.1.2.3:9003")) == "10.1.2.3:50051"
    monkeypatch.setenv("MOONCAKE_MASTER", "m:1")
    assert mooncake.rpc_address(Server("http://10.1.2.3:9003")) == "m:1"


# HA


@pytest.mark.parametrize(
    ("role", "state", "leader", "says"),
    [
        ("leader", "serving", NOBODY, None),
        ("leader", "serving", LEADER, None),
        ("leader", "leader_warmup", LEADER, "not serving yet"),
        ("standby", "standby", LEADER, "the leader, 10.0.0.7:50051"),
        ("standby", "catching_up", NOBODY, "knows no leader"),
        ("<html>", "serving", NOBODY, None),  # no Mooncake at all: its keys will say
    ],
)
async def test_only_the_leader_may_be_asked(serve, role, state, leader, says) -> None:
    replay = (await serve()).on("GET /metrics", METRICS).on("GET /get_all_keys", KEYS)
    replay.on("GET /role", Reply(role)).on("GET /ha_status", Reply(state))
    replay.on("GET /leader", Reply(leader))
    async with Server(replay.url) as server:
        closed = await mooncake.not_leading(server)
        assert (closed is None) is (says is None)
        if says is None:
            pool = await open_pool(mooncake.ENGINE, server, ["model"], everyone=False)
            assert (await pool.look()).count == 21
        else:
            assert says in (closed or "")
            with pytest.raises(ToolError, match=says):
                await open_pool(mooncake.ENGINE, server, ["model"], everyone=False)


async def test_a_master_that_lost_its_lead_tells_nothing_any_more(serve) -> None:
    replay = (await serve()).on("GET /metrics", METRICS).on("GET /get_all_keys", KEYS)
    replay.on("GET /role", Reply("leader")).on("GET /ha_status", Reply("serving"))
    async with Server(replay.url) as server:
        pool = await open_pool(mooncake.ENGINE, server, ["model"], everyone=False)
        replay.on("GET /role", Reply("standby")).on("GET /leader", Reply(LEADER))
        assert await pool.look() == Keys(count=None, names=None)


async def test_masters_before_ha_have_no_role(serve) -> None:
    async with Server((await serve()).url) as server:
        assert await mooncake.not_leading(server) is None


def test_a_removal_reads_its_body() -> None:
    assert mooncake.removed_count(json.dumps({"success": True, "removed_count": 3})) == 3
    assert mooncake.removed_count('{"success":false,"removed_count":3}') is None
