"""A run config turned into the values that the flags would have given."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvpipe.process import UsageError
from kvschemas.checked import Config, load_checked, placeholder_in

PROXY_PORT = 9000  # where the documents put the proxy
DEFAULT_SCENARIO = "long_context_high_reuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioConfig:
    """One scenario of a config, resolved; None where the config says nothing."""

    scenario: str
    name: str | None
    mode: str | None
    endpoints: dict[int, str]
    model: str | None
    settings: dict[str, Any]
    rounds: int | None
    pause_s: float | None
    repeats: int | None
    seed: int | None
    tier: str | None
    api: str | None
    block_tokens: int | None
    chunk_tokens: int | None
    timeout_s: float | None
    metrics_urls: list[str]
    engines: list[str]
    salt: str | None
    pd_flow: str | None
    raw: dict[str, Any] = field(repr=False)


def read_config(path: str | Path, names: list[str] | None) -> list[ScenarioConfig]:
    """The scenarios that a config asks for, or those of them that `names` picks."""
    config = load_checked(path, "config")
    value = config.value
    asked = names or value.get("default_scenarios") or [DEFAULT_SCENARIO]
    return [
        _scenario(config, scenario, mode, endpoints)
        for mode, endpoints in _modes(config)
        for scenario in asked
    ]


def _scenario(
    config: Config, scenario: str, mode: str | None, endpoints: dict[int, str]
) -> ScenarioConfig:
    value = config.value
    settings = dict(value.get("scenarios", {}).get(scenario, {}))
    model = _model(config)
    if "output_tokens" not in settings and model.get("max_tokens"):
        settings["output_tokens"] = model["max_tokens"]
    isolation = value.get("isolation", {})
    mooncake = value.get("mooncake", {})
    engines = list(isolation.get("engines", []))
    if mooncake.get("admin_url"):
        engines.append(f"mooncake={mooncake['admin_url']}")
    return ScenarioConfig(
        scenario=scenario,
        name=value.get("name"),
        mode=mode,
        endpoints=endpoints,
        model=model.get("name"),
        settings=settings,
        rounds=settings.get("rounds", value.get("rounds")),
        pause_s=value.get("pause_between_rounds"),
        repeats=value.get("repeats"),
        seed=value.get("seed"),
        tier=settings.get("tier", value.get("tier")),
        api=value.get("api"),
        block_tokens=value.get("block_tokens"),
        chunk_tokens=mooncake.get("lmcache", {}).get("chunk_size"),
        timeout_s=value.get("timeout_s"),
        metrics_urls=list(value.get("metrics_urls", [])),
        engines=engines,
        salt=isolation.get("salt"),
        pd_flow=value.get("pd_flow"),
        raw=value,
    )


def _model(config: Config) -> dict[str, Any]:
    value = config.value
    active, models = value.get("active_model"), value.get("models", {})
    if active is None:
        found: dict[str, Any] = value.get("model", {})
        if not found and len(models) == 1:
            found = next(iter(models.values()))
        return found
    if active not in models:
        known = ", ".join(models) or "none"
        raise config.error(f"{active} is not among `models` ({known})", "active_model")
    chosen: dict[str, Any] = models[active]
    return chosen


def _modes(config: Config) -> list[tuple[str | None, dict[int, str]]]:
    """Each way to deploy that is run, with its endpoints.

    A mode with a URL of its own is an arrangement of its own; modes without one say only what
    stands behind the endpoint.
    """
    modes = config.value.get("deployment_modes", {})
    enabled = [name for name, mode in modes.items() if mode.get("enabled", True)]
    own = [name for name in enabled if modes[name].get("url")]
    if not own:
        return [(enabled[0] if len(enabled) == 1 else None, _endpoints(config))]
    found: list[tuple[str | None, dict[int, str]]] = []
    for name in enabled:
        if name in own:
            key = ("deployment_modes", name, "url")
            found.append((name, {1: _real(config, modes[name]["url"], *key)}))
        else:
            found.append((name, _endpoints(config)))
    return found


def _endpoints(config: Config) -> dict[int, str]:
    value = config.value
    if "endpoints_per_round" in value:
        return {
            int(number): _real(config, url, "endpoints_per_round", number)
            for number, url in value["endpoints_per_round"].items()
        }
    if "proxy" in value:
        return {1: _real(config, value["proxy"]["url"], "proxy", "url")}
    for name, machine in value.get("machines", {}).items():
        if machine.get("ip"):
            ip = _real(config, machine["ip"], "machines", name, "ip")
            return {1: f"http://{ip}:{PROXY_PORT}/v1"}
    return {}


def _real(config: Config, text: str, *key: str) -> str:
    """The text, unless the example's placeholder is still in it."""
    mark = placeholder_in(text)
    if mark is not None:
        raise config.error(f"the placeholder {mark} is still there: write the real address", *key)
    return text


def plan_flags_of(settings: dict[str, Any]) -> list[str]:
    """kvplan's flags for a scenario's settings."""
    flags: list[str] = []
    for key in ("requests", "context_tokens", "contexts", "shared_ratio", "output_tokens", "order"):
        if key in settings:
            flags += [f"--{key.replace('_', '-')}", str(settings[key])]
    return flags


def need_endpoints(endpoints: dict[int, str]) -> dict[int, str]:
    """The endpoints, or a UsageError that says how to name one."""
    if not endpoints:
        raise UsageError(
            "no endpoint: give --url http://HOST:PORT, or proxy.url or endpoints_per_round in the"
            " config"
        )
    return endpoints
