"""Removes every object of a Mooncake store through its Python client, in a process of its own.

`python -m kvengine.mooncake_client MASTER KEY`: the client is a C++ library that logs, starts
threads and may end the process, so it is never loaded into a tool. It joins with no memory of its
own (0 bytes, P2PHANDSHAKE) and first asks for KEY, which the caller saw in the store that it
means: another store is left alone. One JSON object on stdout: `removed` or `error`.

Run against 0.3.13.post1; `remove_all(force)` is of 0.3.9 and later, and what is older removes
nothing within a lease.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
from typing import Any

BUFFER_BYTES = 16 << 20
CONNECT_S = 10.0
INSTALL = "pip install mooncake-transfer-engine-non-cuda"


def remove_everything(master: str, key: str) -> dict[str, object]:
    """What became of it: `removed` with a count, else `error` in a line."""
    try:
        client = importlib.import_module("mooncake.store")
    except ImportError as error:
        return {"error": f"Mooncake's Python client cannot be imported ({error}): {INSTALL}"}
    try:
        own_host = _own_host(master)
    except OSError as error:
        return {"error": f"{master}: {(error.strerror or str(error)).lower()}"}
    except ValueError:
        return {"error": f"{master}: no HOST:PORT"}
    store = client.MooncakeDistributedStore()
    code = store.setup(own_host, "P2PHANDSHAKE", 0, BUFFER_BYTES, "tcp", "", master)
    if code:
        return {"error": f"{master}: the client could not join (code {code})"}
    try:
        if store.is_exist(key) != 1:
            return {"error": f"{master} is another store: it does not have the key {key}"}
        removed = _remove_all(store)
    finally:
        store.close()
    if removed < 0:
        return {"error": f"{master}: remove_all answered {removed}"}
    return {"removed": removed}


def _remove_all(store: Any) -> int:
    try:
        return int(store.remove_all(True))
    except TypeError:
        return int(store.remove_all())


def _own_host(master: str) -> str:
    """The address of this machine that the master sees; OSError if nobody listens there."""
    host, _, port = master.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as link:
        return str(link.getsockname()[0])


if __name__ == "__main__":
    print(json.dumps(remove_everything(sys.argv[1], sys.argv[2])))
