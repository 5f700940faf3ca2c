"""LMCache's own Prometheus code over figures that are made up: run by LMCache's Python.

LMCache in the engine's process does not run without a GPU, but its metrics are made by a class of
its own, and so are their names and labels. Prints the port and serves until it is killed.
"""

import dataclasses
import http.server
import typing

import prometheus_client
import torch
from lmcache.observability import LMCacheStats, PrometheusLogger
from lmcache.v1.metadata import LMCacheMetadata
from prometheus_client import multiprocess


def made_up() -> LMCacheStats:
    """One of each: a count of 1, or one observation of 1."""
    hints = typing.get_type_hints(LMCacheStats)
    values = {
        field.name: [1.0] if typing.get_origin(hints[field.name]) is list else 1
        for field in dataclasses.fields(LMCacheStats)
    }
    return LMCacheStats(**values)


def main() -> None:
    metadata = LMCacheMetadata(
        model_name="tiny", world_size=1, local_world_size=1, worker_id=0, local_worker_id=0,
        kv_dtype=torch.bfloat16, kv_shape=(8, 2, 256, 8, 64),
    )  # fmt: skip
    logger = PrometheusLogger.GetOrCreate(metadata)

    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            logger.log_prometheus(made_up())
            registry = prometheus_client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
            body = prometheus_client.generate_latest(registry)
            self.send_response(200)
            self.send_header("Content-Type", prometheus_client.CONTENT_TYPE_LATEST)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Metrics)
    print(server.server_address[1], flush=True)
    server.serve_forever()


main()
