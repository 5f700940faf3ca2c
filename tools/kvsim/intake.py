"""A request's body becomes an ``Ask``, or is refused as vLLM would refuse it."""

import json
import math
import secrets
from typing import Any

from kvsim import refusals
from kvsim.options import NodeOptions
from kvsim.prompt import Ask
from kvsim.refusals import bad_value, invalid, problem
from kvsim.tokens import VOCAB_SIZE, encode, render_chat

_INT = ("max_tokens", "max_completion_tokens", "min_tokens", "n", "seed", "top_k", "top_logprobs")
_FLOAT = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty")
_BOOL = ("stream", "ignore_eos", "return_token_ids", "echo")
_STR = ("model", "cache_salt", "request_id", "user")

_LEAST = {
    "n": 1, "max_tokens": 1, "max_completion_tokens": 1, "min_tokens": 0, "logprobs": 0,
    "top_logprobs": 0,
}  # fmt: skip
MOST = {"n": 128, "logprobs": 20, "top_logprobs": 20}
"""OpenAI's limit of choices (vLLM's 16,384 would be minutes of Python), vLLM's of alternatives."""

Body = dict[str, Any]


def read_body(raw: bytes, content_type: str) -> Body:
    """The body as an object. Raises Refused."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise refusals.unsupported_media_type()
    try:
        body = json.loads(raw.decode())  # of bytes it would take halves of characters
    except UnicodeDecodeError as error:
        raise invalid([problem("json_invalid", "body.0", "JSON decode error", {},
                               {"error": error.reason})]) from error  # fmt: skip
    except json.JSONDecodeError as error:
        found = problem(
            "json_invalid", f"body.{error.pos}", "JSON decode error", {}, {"error": error.msg}
        )
        raise invalid([found]) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or too deep
        found = problem("json_invalid", "body.0", "JSON decode error", {}, {"error": "too large"})
        raise invalid([found]) from error
    _refuse_half_characters(raw, body)
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary"
        raise invalid([problem("model_attributes_type", "body", text, body)])
    return body


def _refuse_half_characters(raw: bytes, body: object) -> None:
    r"""JSON can write half of a character (`\ud800`), which is no text. Raises Refused."""
    if b"\\ud" in raw.lower():
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            text = "Input should be a valid string, unable to parse raw data as a unicode string"
            raise invalid([problem("string_unicode", "body", text, {})]) from error


def _integer(name: str, value: object) -> tuple[int | None, Body | None]:
    loc, text = f"body.{name}", "Input should be a valid integer"
    if isinstance(value, int):
        return int(value), None
    if isinstance(value, float):
        if value.is_integer():
            return int(value), None
        text += ", got a number with a fractional part"
        return None, problem("int_from_float", loc, text, value)
    if isinstance(value, str):
        try:
            return int(value), None
        except ValueError:
            text += ", unable to parse string as an integer"
            return None, problem("int_parsing", loc, text, value)
    return None, problem("int_type", loc, text, value)


def _number(name: str, value: object) -> tuple[float | None, Body | None]:
    loc, text = f"body.{name}", "Input should be a valid number"
    if not isinstance(value, int | float | str):
        return None, problem("float_type", loc, text, value)
    try:
        number = float(value)
    except ValueError:
        text += ", unable to parse string as a number"
        return None, problem("float_parsing", loc, text, value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return None, problem("finite_number", loc, "Input should be a finite number", str(value))
    return number, None


def _boolean(name: str, value: object) -> tuple[bool | None, Body | None]:
    if isinstance(value, bool):
        return value, None
    loc, text = f"body.{name}", "Input should be a valid boolean"
    return None, problem("bool_type", loc, text, value)


def _string(name: str, value: object) -> tuple[str | None, Body | None]:
    if isinstance(value, str):
        return value, None
    return None, problem("string_type", f"body.{name}", "Input should be a valid string", value)


def _typed(body: Body, chat: bool) -> Body:
    """The known fields in their types, null ones left out. Raises Refused with all problems."""
    fields: Body = {}
    problems: list[Body] = []
    required = "messages" if chat else "prompt"
    if body.get(required) is None:
        problems.append(problem("missing", f"body.{required}", "Field required", body))
    elif chat and not isinstance(body["messages"], list):
        text = "Input should be a valid list"
        problems.append(problem("list_type", "body.messages", text, body["messages"]))
    readers = {_integer: _INT, _number: _FLOAT, _boolean: _BOOL, _string: _STR}
    kind = _boolean if chat else _integer
    for reader, names in {**readers, kind: (*readers[kind], "logprobs")}.items():
        for name in names:
            if body.get(name) is None:
                continue
            fields[name], found = reader(name, body[name])
            if found:
                problems.append(found)
    if problems:
        raise invalid(problems)
    return fields


def _prompts(body: Body, chat: bool, dated: bool) -> tuple[tuple[int, ...], ...]:
    """Token ids of each prompt. Raises Refused."""
    if chat:
        messages = [item for item in body["messages"] if isinstance(item, dict)]
        opened = body.get("add_generation_prompt", True)
        return (tuple(render_chat(messages, generation_prompt=bool(opened), dated=dated)),)
    prompt = body["prompt"]
    many: list[Any] = prompt if isinstance(prompt, list) else [prompt]
    if many and all(isinstance(item, int) for item in many):
        many = [many]
    prompts = []
    for item in many:
        if isinstance(item, str):
            prompts.append(tuple(encode(item)))
        elif isinstance(item, list) and all(isinstance(token, int) for token in item):
            wrong = [token for token in item if not 0 <= token < VOCAB_SIZE]
            if wrong:
                raise bad_value(f"Token id {wrong[0]} is out of vocabulary", "prompt", wrong[0])
            prompts.append(tuple(item))
        else:
            text = "Input should be a valid string"
            raise invalid([problem("string_type", "body.prompt", text, item)])
    if not prompts or not all(prompts):
        raise bad_value("The decoder prompt cannot be empty", "prompt")
    return tuple(prompts)


def _check_values(fields: Body) -> None:
    """What the engine's sampling parameters refuse. Raises Refused."""
    temperature, top_p = fields.get("temperature"), fields.get("top_p")
    if temperature is not None and temperature < 0:
        text = f"temperature must be non-negative, got {temperature}."
        raise bad_value(text, "temperature", temperature)
    if top_p is not None and not 0 < top_p <= 1:
        raise bad_value(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)
    for name, least in _LEAST.items():
        value = fields.get(name)
        if value is not None and value < least:
            raise bad_value(f"{name} must be at least {least}, got {value}.", name, value)
    for name, most in MOST.items():
        value = fields.get(name)
        if value is not None and value > most:
            raise bad_value(f"{name} must be at most {most}, got {value}.", name, value)


def _check_salt(body: Body) -> None:
    """vLLM looks at the salt before it looks at anything else. Raises Refused."""
    salt = body.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise bad_value("Parameter 'cache_salt' must be a non-empty string if provided.",
                        "cache_salt")  # fmt: skip


def _max_tokens(fields: Body, chat: bool, prompt: int, longest: int) -> int:
    """The output limit: 16 for completions, the rest of the context for chat. Raises Refused."""
    if prompt > longest:
        raise refusals.too_long(longest, longest + 1)
    asked = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if asked is None:
        return max(1, min(16, longest - prompt)) if not chat else max(1, longest - prompt)
    if prompt + asked > longest:
        raise refusals.too_long_with_output(longest, prompt, asked)
    return int(asked)


def read_object(body: Body, name: str) -> Body:
    """A field that holds fields; empty where it is null. Raises Refused."""
    told = body.get(name)
    if told is not None and not isinstance(told, dict):
        text = "Input should be a valid dictionary"
        raise invalid([problem("dict_type", f"body.{name}", text, told)])
    return told or {}


def read_length(body: Body, options: NodeOptions) -> int:
    """How many tokens a flat node answers, which looks at little else. Raises Refused."""
    for name in ("max_completion_tokens", "max_tokens"):
        if body.get(name) is None:
            continue
        value, found = _integer(name, body[name])
        if found:
            raise invalid([found])
        _check_values({name: value})
        asked = value or 0
        if asked > options.max_model_len:
            raise refusals.too_long_with_output(options.max_model_len, 0, asked)
        return asked
    return 16


def _logprobs(fields: Body, chat: bool) -> int | None:
    if chat:
        return fields.get("top_logprobs", 0) if fields.get("logprobs") else None
    return fields.get("logprobs")


def read_ask(body: Body, chat: bool, options: NodeOptions, client_id: str | None) -> Ask:
    """The request, checked. Raises Refused."""
    _check_salt(body)
    fields = _typed(body, chat)
    model = fields.get("model", options.model)
    if model != options.model:
        raise refusals.no_such_model(model, options.model)
    _check_values(fields)
    prompts = _prompts(body, chat, options.dated_template)
    longest = max(map(len, prompts))
    limit = _max_tokens(fields, chat, longest, options.max_model_len)
    least = fields.get("min_tokens", 0)
    if least > limit:
        text = f"min_tokens must be less than or equal to max_tokens={limit}, got {least}."
        raise bad_value(text, "min_tokens", least)
    stream = bool(fields.get("stream"))
    extras = read_object(body, "stream_options")
    if extras and not stream:
        text = "Stream options can only be defined when `stream=True`."
        raise bad_value(text, "stream_options")
    usage = bool(extras.get("include_usage"))
    name = client_id or fields.get("request_id") or secrets.token_hex(8)
    return Ask(
        chat=chat,
        request_id=("chatcmpl-" if chat else "cmpl-") + name,
        client_id=client_id,
        model=model,
        prompts=prompts,
        n=fields.get("n", 1),
        max_tokens=limit,
        min_tokens=least,
        ignore_eos=bool(fields.get("ignore_eos")),
        temperature=fields.get("temperature", 1.0),
        seed=fields.get("seed"),
        salt=fields.get("cache_salt"),
        stream=stream,
        include_usage=usage,
        continuous_usage=usage and bool(extras.get("continuous_usage_stats")),
        logprobs=_logprobs(fields, chat),
        return_token_ids=bool(fields.get("return_token_ids")),
        kv=read_object(body, "kv_transfer_params"),
    )
