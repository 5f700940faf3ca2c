"""compose/ held against the Compose Specification's schema, the documents and its own parts.

What needs a Docker engine is not run here; docs/deployments.md lists it. Flags and keys of the
engines are put to the engines' own parsers in tests/real/test_deployments.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.family import ROOT

from kvsim import arguments

COMPOSE = ROOT / "compose"
FILES = sorted(COMPOSE.glob("docker-compose*.yml"))
TEXT = (COMPOSE / "docker-compose.yml").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^{}]*))?\}")
PROFILES = {
    "pd": {"mooncake-master", "vllm-prefiller", "vllm-decoder", "vllm-proxy"},
    "non-disagg": {"mooncake-master", "vllm-server"},
    "two-node": {"mooncake-master", "vllm-node-a", "vllm-node-b"},
    "sim": {"sim-store", "sim-a", "sim-b"},
    "tools": {"tools"},
}


def example() -> dict[str, str]:
    """.env.example as compose reads it."""
    lines = (COMPOSE / ".env.example").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}


def interpolated(text: str, env: dict[str, str]) -> str:
    """As compose does with ${NAME:-default}, the only form that is used here."""
    return VARIABLE.sub(lambda found: env.get(found[1]) or found[2] or "", text)


def services(env: dict[str, str] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(interpolated(TEXT, env or {}))
    found: dict[str, Any] = content["services"]
    return found


def running(profile: str) -> dict[str, Any]:
    """What `docker compose --profile PROFILE up` starts."""
    return {
        name: one
        for name, one in services().items()
        if not one.get("profiles") or profile in one["profiles"]
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_compose_specification_holds(path: Path) -> None:
    schema = json.loads((ROOT / "tests/data/compose/compose-spec.json").read_text("utf-8"))
    content = yaml.safe_load(interpolated(path.read_text(encoding="utf-8"), {}))
    jsonschema.Draft202012Validator(schema).validate(content)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_profile_starts_its_services_and_no_others(profile: str) -> None:
    assert set(running(profile)) == PROFILES[profile] | {"prometheus", "grafana"}


def test_without_docker_options_the_default_is_pd() -> None:
    assert example()["COMPOSE_PROFILES"] == "pd"


def test_env_example_names_every_variable_with_its_default() -> None:
    used = dict(VARIABLE.findall(TEXT))
    told = example()
    assert set(told) - {"COMPOSE_PROFILES"} <= set(used), "a variable that nothing reads"
    undocumented = set(used) - set(told) - {"RESULTS"}
    assert undocumented == set()
    assert {name: told[name] for name in used if name in told} == {
        name: default for name, default in used.items() if name in told
    }


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_no_two_services_of_a_profile_want_one_port(profile: str) -> None:
    published = [
        port.rsplit(":", 2)[-2]
        for one in running(profile).values()
        for port in one.get("ports", ())
    ]
    assert len(published) == len(set(published)), published


def test_admin_ports_are_published_on_this_machine_alone() -> None:
    """Reset routes, Mooncake's remove_all and the like ask nobody for a key."""
    opened = services({"KV_BIND": "0.0.0.0"})
    public = {
        name
        for name, one in opened.items()
        for port in one.get("ports", ())
        if not port.startswith("127.0.0.1:")
    }
    assert public == {"vllm-proxy", "vllm-server", "vllm-node-a", "vllm-node-b"}
    assert all(
        port.startswith("127.0.0.1:")
        for one in services().values()
        for port in one.get("ports", ())
    )


def test_the_documents_ports() -> None:
    found = {
        name: [port.rsplit(":", 2)[-2] for port in one["ports"]]
        for name, one in services().items()
        if "ports" in one
    }
    assert found["vllm-proxy"] == ["9000"]
    assert found["vllm-server"] == ["8000"]
    assert found["vllm-prefiller"] == ["8100"]
    assert found["vllm-decoder"] == ["8200"]
    assert found["mooncake-master"] == ["50052", "8080", "9004"]
    assert found["prometheus"] == ["9090"]
    assert found["grafana"] == ["3000"]


def test_everything_that_others_wait_for_tells_its_health() -> None:
    for name, one in services().items():
        for wanted, terms in one.get("depends_on", {}).items():
            assert terms["condition"] == "service_healthy", name
            assert "healthcheck" in services()[wanted], f"{name} waits for {wanted}"


def test_what_is_mounted_or_built_is_there() -> None:
    for name, one in services().items():
        for volume in one.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith((".", "/")) and source not in ("./models", "./results"):
                assert (COMPOSE / source).exists(), f"{name}: {source}"
        if "build" in one:
            context = COMPOSE / one["build"]["context"]
            assert (context / one["build"]["dockerfile"]).is_file(), name


def test_the_image_of_the_tools_copies_what_is_there() -> None:
    for line in (COMPOSE / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY "):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line


def test_engines_agree_about_what_keys_are_made_of() -> None:
    engines = [one for name, one in services().items() if "LMCACHE_CONFIG_FILE" in environment(one)]
    assert len(engines) == 5
    assert {environment(one)["PYTHONHASHSEED"] for one in engines} == {"0"}
    configs = [lmcache(one) for one in engines]
    for key in ("chunk_size", "remote_url", "remote_serde", "pre_caching_hash_algorithm"):
        assert len({one[key] for one in configs}) == 1, key
    extra = [one["extra_config"] for one in configs]
    for key in ("metadata_server", "master_server_address", "protocol", "save_chunk_meta"):
        assert len({one[key] for one in extra}) == 1, key
    names = [one["local_hostname"] for one in extra]
    assert sorted(names) == sorted(
        name for name, one in services().items() if "LMCACHE_CONFIG_FILE" in environment(one)
    ), "a segment is fetched from its owner's name"


def environment(service: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = service.get("environment", {})
    return found


def lmcache(service: dict[str, Any]) -> dict[str, Any]:
    """The LMCache config that a service mounts."""
    [source] = [
        volume.partition(":")[0]
        for volume in service["volumes"]
        if volume.endswith(":/config/lmcache.yaml:ro")
    ]
    found: dict[str, Any] = yaml.safe_load((COMPOSE / source).read_text(encoding="utf-8"))
    return found


def test_the_configs_point_at_the_services_own_ports() -> None:
    master = services()["mooncake-master"]
    flags = dict(flag.lstrip("-").partition("=")[::2] for flag in master["command"][1:])
    config = lmcache(services()["vllm-prefiller"])
    rpc = f"mooncake-master:{flags['rpc_port']}"
    assert config["remote_url"] == f"mooncakestore://{rpc}/"
    assert config["extra_config"]["master_server_address"] == rpc
    port = flags["http_metadata_server_port"]
    assert config["extra_config"]["metadata_server"] == f"http://mooncake-master:{port}/metadata"


def test_the_documents_figures() -> None:
    config = lmcache(services()["vllm-decoder"])
    assert (config["chunk_size"], config["local_cpu"], config["max_local_cpu_size"]) == (
        256,
        False,
        100,
    )
    extra = config["extra_config"]
    assert extra["global_segment_size"] == 107374182400
    assert extra["local_buffer_size"] == 2147483648
    assert extra["transfer_timeout"] == 10


def test_every_scraped_name_is_a_service() -> None:
    jobs = yaml.safe_load((COMPOSE / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    names = {name for job in jobs for sd in job["dns_sd_configs"] for name in sd["names"]}
    watched = {
        name for name in services() if name not in ("prometheus", "grafana", "tools", "vllm-proxy")
    }
    assert names == watched


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    provisioning = COMPOSE / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text("utf-8"))
    uid = source["datasources"][0]["uid"]
    folder = yaml.safe_load((provisioning / "dashboards/dashboards.yml").read_text("utf-8"))
    path = folder["providers"][0]["options"]["path"]
    mounted = services()["grafana"]["volumes"]
    for file in COMPOSE.glob("grafana-dashboard-*.json"):
        assert f"./{file.name}:{path}/{file.name}:ro" in mounted
        panels = json.loads(file.read_text("utf-8"))["panels"]
        assert {panel["datasource"]["uid"] for panel in panels} == {uid}


@pytest.mark.parametrize("name", ["sim-store", "sim-a", "sim-b", "vllm-proxy"])
def test_kvsim_takes_the_services_flags(name: str) -> None:
    command = services()[name]["command"]
    assert command[0] == "kvsim"
    parsed = arguments.parser().parse_args(command[1:])
    assert str(parsed.port) in services()[name]["ports"][0].rpartition(":")[2]
    for url in (parsed.store, *(parsed.prefiller or ()), *(parsed.decoder or ())):
        if url is not None:
            host, _, port = url.removeprefix("http://").partition(":")
            assert services()[host]["ports"][0].endswith(f":{port}"), url
