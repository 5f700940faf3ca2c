"""What kvclear is asked to clear before a scenario, if anything is named to clear with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvengine.urls import has_credentials, redact
from kvschemas.checked import Config, placeholder_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearing:
    """kvclear's flags for one scenario."""

    flags: tuple[str, ...]
    named: tuple[str, ...]
    """KIND=URL of the engines that are cleared."""
    wait_s: float
    commands: int


def clearing_of(
    matrix: Config, run: Config, endpoints: dict[int, str], *, allow_commands: bool
) -> Clearing | None:
    """The clearing of a scenario: the run config's keys, else the matrix'.

    None where the matrix says not to clear, or where neither file names anything to clear with. An
    endpoint alone is no such thing: it may be anything that speaks OpenAI's API. Where something
    is named but no engine, the endpoints are cleared as vLLM nodes, as kvclear does it itself.
    """
    if not matrix.value.get("clear_cache_between_scenarios", True):
        return None
    engines = _isolation(matrix, run, "engines") or []
    commands = _commands(matrix, run, allow_commands)
    admin, metadata = (
        _mooncake(matrix, run, "admin_url"),
        _mooncake(matrix, run, "metadata_server_url"),
    )
    if not (engines or commands or admin or metadata):
        return None
    if not engines:
        engines = [f"vllm={url}" for url in dict.fromkeys(endpoints.values())]
    if admin and not any(engine.startswith("mooncake=") for engine in engines):
        engines = [*engines, f"mooncake={admin}"]
    wait_s = _isolation(matrix, run, "wait_s")
    if wait_s is None:
        wait_s = matrix.value.get("wait_between_scenarios", 0)
    flags = [text for engine in engines for text in ("--engine", engine)]
    flags += ["--metadata-clear", metadata] if metadata else []
    flags += [text for command in commands for text in ("--command", command)]
    for url in _isolation(matrix, run, "health") or []:
        flags += ["--health", url]
    flags += ["--local-only"] if _isolation(matrix, run, "local_only") else []
    flags += ["--global"] if _isolation(matrix, run, "global") else []
    flags += ["--model", model] if (model := _model(run)) else []
    flags += ["--wait", f"{wait_s:g}"] if wait_s else []
    return Clearing(
        flags=tuple(flags), named=tuple(engines), wait_s=float(wait_s), commands=len(commands)
    )


def _isolation(matrix: Config, run: Config, key: str) -> Any:
    """A key of `isolation`: the run config's, else the matrix'; null if neither has it."""
    for config in (run, matrix):
        found = config.value.get("isolation", {}).get(key)
        if found is not None:
            for index, item in enumerate(found if isinstance(found, list) else []):
                if key != "commands":
                    refuse_placeholder(config, item, "isolation", key, index)
            return found
    return None


def _commands(matrix: Config, run: Config, allowed: bool) -> list[str]:
    found = _isolation(matrix, run, "commands") or []
    if found and not allowed:
        holder = run if run.value.get("isolation", {}).get("commands") else matrix
        raise holder.error(
            "commands of a config run only with --allow-commands (make: ALLOW_COMMANDS=1)",
            *("isolation", "commands"),
        )
    return list(found)


def _mooncake(matrix: Config, run: Config, key: str) -> str | None:
    for config in (run, matrix):
        found = config.value.get("mooncake", {}).get(key)
        if found:
            refuse_placeholder(config, found, "mooncake", key)
            return str(found)
    return None


def refuse_placeholder(config: Config, text: str, *key: str | int) -> None:
    """ToolError if an example's placeholder is still in an address, or a password is.

    What is checked here becomes an argument of kvclear or kvload, which everybody on the machine
    can read, and stands in the rules.
    """
    mark = placeholder_in(text)
    if mark is not None:
        raise config.error(f"the placeholder {mark} is still there: write the real address", *key)
    refuse_password(config, text, *key)


def refuse_password(config: Config, text: str, *key: str | int) -> None:
    """ToolError for a URL with a user in it."""
    if has_credentials(text):
        raise config.error(
            f"{redact(text)} came with a user or password, which would stand in the process list:"
            " leave them out and put a key into OPENAI_API_KEY",
            *key,
        )


def _model(run: Config) -> str | None:
    value = run.value
    models = value.get("models", {})
    if "active_model" in value:
        if value["active_model"] not in models:
            known = ", ".join(models) or "none"
            raise run.error(
                f"{value['active_model']} is not among `models` ({known})", "active_model"
            )
        return str(models[value["active_model"]]["name"])
    model = value.get("model") or (next(iter(models.values())) if len(models) == 1 else {})
    name = model.get("name")
    return str(name) if name else None
