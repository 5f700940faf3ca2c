"""Every kind of engine that is known, found by itself: a module with an `ENGINE` is one."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import kvengine
from kvengine.engine import Engine
from kvengine.urls import redact
from kvpipe.process import UsageError

NOT_ENGINES = frozenset({"engines", "counters", "replicas", "rest", "saltask", "saltprobe"})
"""Modules that stand on this one, so that importing them from here would be a circle, or on more
than an engine needs. Others without an `ENGINE` are imported and passed over."""


def _modules() -> dict[str, ModuleType]:
    found: dict[str, ModuleType] = {}
    for info in pkgutil.iter_modules(kvengine.__path__):
        if info.name not in NOT_ENGINES:
            module = importlib.import_module(f"kvengine.{info.name}")
            engine = getattr(module, "ENGINE", None)
            if isinstance(engine, Engine):
                found[engine.kind] = module
    return found


MODULES: dict[str, ModuleType] = _modules()
"""Module by kind."""

ENGINES: dict[str, Engine] = {kind: module.ENGINE for kind, module in MODULES.items()}
"""Description by kind."""


def engine_of(kind: str) -> Engine:
    """The engine of a kind; UsageError that lists the known ones."""
    try:
        return ENGINES[kind]
    except KeyError:
        known = ", ".join(sorted(ENGINES))
        raise UsageError(f"engine '{redact(kind)}': no such kind; known: {known}") from None


def split_engine(text: str) -> tuple[Engine, str]:
    """`vllm=http://HOST:8000` as an engine and a URL; UsageError for anything else."""
    kind, equals, url = text.partition("=")
    if not equals or not url:
        raise UsageError(f"engine '{redact(text)}': write KIND=URL, such as vllm=http://HOST:8000")
    return engine_of(kind), url
