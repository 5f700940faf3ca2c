"""The command line of kvsim."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from kvpipe.process import run_tool
from kvsim import arguments as args

if TYPE_CHECKING:
    import socket

    from kvsim.launch import Service


def run(argv: Sequence[str] | None) -> int:
    """Serves until it is stopped. Raises ToolError, UsageError, Stopped."""
    arguments = args.parser().parse_args(argv)
    args.check(arguments)
    if arguments.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    from kvsim.launch import bind, serve  # after --help, which needs no server

    make = {"store": _store_service, "proxy": _proxy_service}.get(arguments.role, _node_service)
    with bind(arguments.host, arguments.port) as listener:
        service = make(arguments, listener)
        served = serve(
            listener,
            service,
            arguments.role,
            keep_alive_s=arguments.keep_alive_s,
            verbose=arguments.verbose,
        )
        asyncio.run(served)
    return 0


def _node_service(arguments: argparse.Namespace, listener: "socket.socket") -> "Service":
    from kvsim.launch import Service
    from kvsim.node import Node

    host, port = listener.getsockname()[:2]
    node = Node(args.node_options(arguments), f"{host}:{port}")
    return Service(entry=node.entry, start=node.start, stop=node.stop)


def _store_service(arguments: argparse.Namespace, listener: "socket.socket") -> "Service":
    from kvsim.faults import FaultSet
    from kvsim.launch import Service
    from kvsim.store import Store
    from kvsim.store_api import StoreApi

    faults = FaultSet(args.faults(arguments), owner="store")
    api = StoreApi(Store(args.store_options(arguments)), faults)
    return Service(entry=api.entry, start=api.start, stop=api.stop)


def _proxy_service(arguments: argparse.Namespace, listener: "socket.socket") -> "Service":
    from kvsim.faults import FaultSet
    from kvsim.launch import Service
    from kvsim.proxy import Proxy

    host, port = listener.getsockname()[:2]
    faults = FaultSet(args.faults(arguments), owner="proxy")
    proxy = Proxy(args.proxy_options(arguments, f"{host}:{port}"), faults)
    return Service(entry=proxy.entry, start=proxy.start, stop=proxy.stop)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    run_tool("kvsim", run, argv)
