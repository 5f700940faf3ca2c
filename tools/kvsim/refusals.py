"""The ways in which vLLM says no, word for word (tests/data/captures/vllm_err_*.json)."""

from typing import Any

import msgspec


class Refused(Exception):
    """A request that is answered with an error instead of tokens."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param

    def body(self) -> bytes:
        return msgspec.json.encode(error_object(self.status, self.kind, self.message, self.param))


def error_object(status: int, kind: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_value(message: str, param: str, value: object = None) -> Refused:
    """A value that the engine refuses. The message ends in the parameter and, if any, its value."""
    about = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return Refused(400, "BadRequestError", f"{message} ({about})", param)


def no_such_model(model: str, served: str) -> Refused:
    message = f"The model `{model}` does not exist. Valid aliases: {served}."
    return Refused(404, "NotFoundError", message, "model")


def unsupported_media_type() -> Refused:
    message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
    return Refused(400, "Bad Request", message)


def too_long(longest: int, at_least: int) -> Refused:
    """vLLM stops counting one token after the limit."""
    message = (
        f"This model's maximum context length is {longest} tokens. However, your prompt contains "
        f"at least {at_least} input tokens, which exceeds this limit even without any output "
        "tokens. Please reduce the length of the input prompt."
    )
    return bad_value(message, "input_tokens", at_least)


def too_long_with_output(longest: int, prompt: int, output: int) -> Refused:
    """Not captured; worded after ``too_long``."""
    message = (
        f"This model's maximum context length is {longest} tokens. However, you requested "
        f"{output} output tokens and your prompt contains at least {prompt} input tokens, for a "
        f"total of at least {prompt + output} tokens. Please reduce the length of the input "
        "prompt or the number of requested output tokens."
    )
    return bad_value(message, "input_tokens", prompt)


def invalid(problems: list[dict[str, Any]]) -> Refused:
    """What pydantic found: every problem on a line of its own, the first one's place as param."""
    many = "error" if len(problems) == 1 else "errors"
    shown = "".join(f"\n  {problem}" for problem in problems)
    message = f"{len(problems)} validation {many}:{shown}"
    return Refused(400, "Bad Request", message, str(problems[0]["loc"]))


def problem(
    kind: str, loc: str, text: str, value: object, ctx: dict[str, str] | None = None
) -> dict[str, Any]:
    """One pydantic problem; containers are shown by their size."""
    shown = value
    if isinstance(value, dict | list):
        shown = f"<{type(value).__name__} of {len(value)} items>"
    found: dict[str, Any] = {"type": kind, "loc": loc, "msg": text, "input": shown}
    return found if ctx is None else {**found, "ctx": ctx}
