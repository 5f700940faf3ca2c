"""A store's HTTP API: the Mooncake master's admin routes, and internal ones for the nodes.

Source of paths and answers: captures of Mooncake 0.3.13.post1, and its
``mooncake-store/src/master_admin_service.cpp`` where nothing was captured.
"""

import time
from hashlib import blake2b
from typing import Any

import msgspec
from aiohttp import web

from kvsim.faults import FaultSet
from kvsim.node import fault_answer, switch_fault
from kvsim.serving import METRICS_TYPE, Routes, empty_answer, json_answer, text_answer
from kvsim.store import Object, Store
from kvsim.store_metrics import render

_TEXT = "text/plain; version=0.0.4"
_NOT_FOUND = {"success": False, "error_code": -704, "error_message": "OBJECT_NOT_FOUND"}


def _json(value: Any, status: int = 200) -> web.Response:
    return json_answer(msgspec.json.encode(value), status)


class StoreApi:
    """Routes of one store."""

    def __init__(self, store: Store, faults: FaultSet) -> None:
        self._store = store
        self._faults = faults
        self._started_s = time.time()
        self._routes: Routes = {
            "/metrics": {"GET": self._metrics},
            "/health": {"GET": self._health},
            "/role": {"GET": self._role},
            "/ha_status": {"GET": self._ha_status},
            "/get_all_keys": {"GET": self._get_all_keys},
            "/get_all_segments": {"GET": self._get_all_segments},
            "/get_segments_detail": {"GET": self._get_segments_detail},
            "/query_key": {"GET": self._query_key},
            "/batch_query_keys": {"GET": self._batch_query_keys},
            "/api/v1/remove_all": {"POST": self._remove_all},
            "/kvsim/mount": {"POST": self._mount},
            "/kvsim/unmount": {"POST": self._unmount},
            "/kvsim/exist": {"POST": self._exist},
            "/kvsim/get": {"POST": self._get},
            "/kvsim/put": {"POST": self._put},
            "/kvsim/fault": {
                "GET": self._fault_get, "POST": self._fault_on, "DELETE": self._fault_off,
            },
        }  # fmt: skip

    async def start(self) -> None:
        """Nothing to start: a store only answers."""

    async def stop(self) -> None:
        """Nothing to end: what it held is gone with it."""

    async def entry(self, request: web.Request) -> web.StreamResponse:
        """Unknown paths and wrong methods are both 404 on a master."""
        handler = self._routes.get(request.path, {}).get(request.method)
        return await handler(request) if handler else empty_answer(404)

    # The master's own

    async def _metrics(self, request: web.Request) -> web.Response:
        return text_answer(render(self._store, self._started_s), METRICS_TYPE)

    async def _health(self, request: web.Request) -> web.Response:
        state = {"status": "ok", "role": "leader", "ha_state": "serving", "service_ready": True}
        return _json(state)

    async def _role(self, request: web.Request) -> web.Response:
        return text_answer("leader", "text/plain; charset=utf-8")

    async def _ha_status(self, request: web.Request) -> web.Response:
        return text_answer("serving", "text/plain; charset=utf-8")

    async def _get_all_keys(self, request: web.Request) -> web.Response:
        return text_answer("".join(f"{key}\n" for key in self._store.objects), _TEXT)

    async def _get_all_segments(self, request: web.Request) -> web.Response:
        return text_answer("".join(f"{name}\n" for name in self._store.segments), _TEXT)

    async def _get_segments_detail(self, request: web.Request) -> web.Response:
        details = [self._segment_detail(name) for name in self._store.segments]
        return _json({"total_segments": len(details), "segments": details})

    def _segment_detail(self, name: str) -> dict[str, Any]:
        size, used = self._store.capacity_of(name), self._store.used_by(name)
        return {
            "segment_name": name, "segment_id": _uuid(name, "segment"),
            "client_id": _uuid(name, "client"), "base_address": hex(_address(name)),
            "size_bytes": size, "size_human": f"{size / (1 << 30):g} GiB", "te_endpoint": name,
            "protocol": "tcp", "status": "OK", "allocator_used_bytes": used,
            "allocator_capacity_bytes": size,
            "allocator_usage_percent": used / size * 100 if size else 0.0,
        }  # fmt: skip

    async def _query_key(self, request: web.Request) -> web.Response:
        key = request.query.get("key", "")
        found = self._store.describe(key, time.monotonic())
        if found is None:
            return _json(_NOT_FOUND, 404)
        return _json({"success": True, "data": [_buffer(key, found)]})

    async def _batch_query_keys(self, request: web.Request) -> web.Response:
        keys = [key for key in request.query.get("keys", "").split(",") if key]
        if not keys:
            text = "No keys provided. Use ?keys=key1,key2,..."
            return _json({"success": False, "error": text}, 400)
        now = time.monotonic()
        data: dict[str, Any] = {}
        for key in sorted(keys):
            found = self._store.describe(key, now)
            if found is None:
                data[key] = {"ok": False, "error": "OBJECT_NOT_FOUND", "values": None}
            else:
                data[key] = {"ok": True, "error": None, "values": [_buffer(key, found)]}
        return _json({"success": True, "data": data})

    async def _remove_all(self, request: web.Request) -> web.Response:
        force = request.query.get("force", "") in ("true", "1")
        if self._faults.on("store_reset_ignored"):
            return _json({"success": True, "removed_count": len(self._store.objects)})
        removed = self._store.remove_all(force=force, now=time.monotonic())
        return _json({"success": True, "removed_count": removed})

    # For the nodes

    async def _mount(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._store.mount(body["segment"], body["size"])
        return _json({"success": True})

    async def _unmount(self, request: web.Request) -> web.Response:
        self._store.unmount((await request.json())["segment"])
        return _json({"success": True})

    async def _exist(self, request: web.Request) -> web.Response:
        keys = (await request.json())["keys"]
        return _json({"exists": self._store.exist(keys, time.monotonic())})

    async def _get(self, request: web.Request) -> web.Response:
        keys = (await request.json())["keys"]
        return _json({"found": self._store.get(keys, time.monotonic())})

    async def _put(self, request: web.Request) -> web.Response:
        body = await request.json()
        segment = body.get("segment")
        if segment is not None and segment not in self._store.segments:  # of an earlier master
            return _json({"failed": len(body["keys"]), "mounted": False})
        failed = self._store.put(body["keys"], body["size"], time.monotonic())
        return _json({"failed": failed, "mounted": True})

    # Of kvsim itself

    async def _fault_get(self, request: web.Request) -> web.Response:
        return fault_answer(self._faults)

    async def _fault_on(self, request: web.Request) -> web.Response:
        return switch_fault(self._faults, await request.read())

    async def _fault_off(self, request: web.Request) -> web.Response:
        self._faults.switch_off(request.query.get("name"))
        return fault_answer(self._faults)


def _address(name: str) -> int:
    """A plausible address: the same for the same name."""
    return 0x7F0000000000 + (hash_of(name) & 0xFFFFFF) * 4096


def hash_of(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _uuid(name: str, what: str) -> str:
    """Mooncake writes its ids as two decimal numbers."""
    return f"{hash_of(what + name)}-{hash_of(name + what)}"


def _buffer(key: str, found: Object) -> dict[str, Any]:
    return {
        "size_": found.size, "buffer_address_": _address(key), "protocol_": "tcp",
        "transport_endpoint_": found.segment,
    }  # fmt: skip
