"""The endpoints of a run config, as kvload will resolve them, and no placeholder among them."""

from __future__ import annotations

from typing import Any

from kvmatrix.clearing import refuse_placeholder
from kvschemas.checked import Config

PROXY_PORT = 9000  # where the documents put the proxy


def mode_of(run: Config) -> str | None:
    """The one deployment mode with a URL of its own; ToolError if there are several.

    Two arrangements in one recipe would share one salt and one clearing.
    """
    modes: dict[str, Any] = run.value.get("deployment_modes", {})
    enabled = [name for name, mode in modes.items() if mode.get("enabled", True)]
    own = [name for name in enabled if modes[name].get("url")]
    if own and len(enabled) > 1:
        raise run.error(
            f"{' and '.join(enabled)} are two arrangements: in a matrix each is a scenario of its"
            " own, with a config file that enables one of them",
            "deployment_modes",
        )
    return own[0] if own else None


def endpoints_of(run: Config, mode: str | None) -> dict[int, str]:
    """Endpoint by round; ToolError if there is none, or a placeholder where one should be."""
    value = run.value
    if mode is not None:
        key = ("deployment_modes", mode, "url")
        return {1: _real(run, value["deployment_modes"][mode]["url"], *key)}
    if "endpoints_per_round" in value:
        return {
            int(number): _real(run, url, "endpoints_per_round", number)
            for number, url in value["endpoints_per_round"].items()
        }
    if "proxy" in value:
        return {1: _real(run, value["proxy"]["url"], "proxy", "url")}
    for name, machine in value.get("machines", {}).items():
        if machine.get("ip"):
            ip = _real(run, machine["ip"], "machines", name, "ip")
            return {1: f"http://{ip}:{PROXY_PORT}/v1"}
    raise run.error("no endpoint: write proxy.url or endpoints_per_round", "proxy")


def _real(run: Config, text: str, *key: str) -> str:
    refuse_placeholder(run, text, *key)
    return text
