"""vLLM's answers as JSON: same keys, same order, same nulls as the captures. Pure."""

from typing import Any

from kvsim.answers import alternative_at, logprob_at
from kvsim.options import NodeOptions
from kvsim.prompt import Ask
from kvsim.sequence import Job, Output
from kvsim.tokens import EOS, token_bytes, token_text

Json = dict[str, Any]
TIE_NATS = 0.01
"""By how much the loser of a near tie is less likely."""


def text_of(token: int) -> str:
    """What a token adds to the answer; nothing for the end token."""
    return "" if token == EOS else token_bytes(token).decode("utf-8", "replace")


def chat_logprobs(job: Job, output: Output) -> Json:
    """One token's log probabilities in chat form, the chosen token first among the best."""
    count = job.ask.logprobs or 0
    token = output.token or 0
    best = [token, *(_alternative(output, rank) for rank in range(1, count))]

    def entry(at: int, rank: int) -> Json:
        text = token_text(at)
        value = _logprob(output, rank)
        return {"token": text, "logprob": value, "bytes": list(text.encode())}

    top = [entry(at, rank) for rank, at in enumerate(best[:count])]
    return {"content": [{**entry(token, 0), "top_logprobs": top}]}


def _alternative(output: Output, rank: int) -> int:
    """The token that was next likely, or as likely."""
    if rank == 1 and output.runner_up is not None:
        return output.runner_up
    return alternative_at(output.seed, output.place, rank)


def _logprob(output: Output, rank: int) -> float:
    tied = rank == 1 and output.runner_up is not None
    value = logprob_at(output.seed, output.place, 0 if tied else rank)
    return value - TIE_NATS if tied else value


def completion_logprobs(job: Job, output: Output, offset: int) -> Json:
    """The same in the older form of completions."""
    token = output.token or 0
    value = _logprob(output, 0)
    best = {token_text(token): value}
    for rank in range(1, job.ask.logprobs or 0):
        best.setdefault(token_text(_alternative(output, rank)), _logprob(output, rank))
    return {
        "text_offset": [offset],
        "token_logprobs": [value],
        "tokens": [token_text(token)],
        "top_logprobs": [best],
    }


class UsageTeller:
    """Builds ``usage`` objects in the manner of one vLLM version."""

    def __init__(self, options: NodeOptions, *, null_details: bool = False) -> None:
        self._options = options
        self._null = null_details

    def details(self, job: Job, *, stream: bool) -> Json | None:
        """``prompt_tokens_details``; None where this server does not tell (below 0.25 a true
        zero is not told either)."""
        cached = job.cached_told
        old = self._options.vllm_version < (0, 25)
        if not self._options.prompt_tokens_details or self._null or (old and not cached):
            return None
        details: Json = {"cached_tokens": cached}
        if self._options.vllm_version < (0, 28):
            return details
        if job.ask.chat:
            details["created_cache_tokens"] = job.created
        elif not stream:
            details["created_cache_tokens"] = None
        return details if stream else {**details, "multimodal_tokens": None}

    def _counts(self, job: Job) -> Json:
        prompt, done = job.ask.prompt_tokens, job.generated
        return {"prompt_tokens": prompt, "total_tokens": prompt + done, "completion_tokens": done}

    def whole(self, job: Job) -> Json:
        """Of an answer that is not streamed."""
        details = self.details(job, stream=False)
        return {
            **self._counts(job),
            "prompt_tokens_details": details,
            "completion_tokens_details": None,
        }

    def final(self, job: Job) -> Json:
        """Of a stream's last chunk: what is not known is left out."""
        details = self.details(job, stream=True)
        counts = self._counts(job)
        if details is None and not self._null:
            return counts
        return {**counts, "prompt_tokens_details": details}

    def running(self, job: Job, done: int) -> Json:
        """Of a chunk in the middle of a stream; no details there."""
        prompt = job.ask.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + done,
            "completion_tokens": done,
            "completion_tokens_details": None,
        }


def timings(job: Job, *, stream: bool) -> Json | None:
    """``metrics`` of ``--per-request-metrics``, in ms; TTFT from scheduled. None unless n is 1."""
    if len(job.sequences) != 1:
        return None
    sequence = job.sequences[0]
    count, decode_s = sequence.generated, sequence.last_s - sequence.first_s
    total_s = sequence.last_s - sequence.scheduled_s
    values: Json = {
        "time_to_first_token_ms": (sequence.first_s - sequence.scheduled_s) * 1e3,
        "generation_time_ms": decode_s * 1e3,
        "queue_time_ms": (sequence.scheduled_s - job.arrived_s) * 1e3,
        "mean_itl_ms": decode_s * 1e3 / (count - 1) if count > 1 else None,
        "tokens_per_second": count / total_s if total_s > 0 else None,
    }
    return values if stream else {**values, "speculative_decoding": None}


def chunk_head(ask: Ask, created: int) -> Json:
    kind = "chat.completion.chunk" if ask.chat else "text_completion"
    return {"id": ask.request_id, "object": kind, "created": created, "model": ask.model}


def role_chunk(job: Job, choice: int, created: int) -> Json:
    """The first chunk of a chat choice, without a token."""
    ask = job.ask
    delta = {"role": "assistant", "content": ""}
    inner = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": None}
    ids = list(job.sequences[choice].tokens[: job.sequences[choice].prompt_len])
    return {
        **chunk_head(ask, created),
        "choices": [inner],
        "prompt_token_ids": ids if ask.return_token_ids else None,
        "prompt_text": None,
    }


def chat_chunk(job: Job, output: Output, delta: Json, created: int) -> Json:
    """A token of a chat stream."""
    ask = job.ask
    inner: Json = {
        "index": output.choice,
        "delta": delta,
        "logprobs": chat_logprobs(job, output) if ask.logprobs is not None else None,
        "finish_reason": output.finish,
    }
    if output.finish:
        inner["stop_reason"] = None
    inner["token_ids"] = [output.token] if ask.return_token_ids else None
    return {**chunk_head(ask, created), "choices": [inner]}


def completion_chunk(job: Job, output: Output, text: str, offset: int, created: int) -> Json:
    """A token of a completion stream; the prompt's ids come with the first."""
    ask, sequence = job.ask, job.sequences[output.choice]
    ids = None
    if ask.return_token_ids and offset == 0:
        ids = list(sequence.tokens[: sequence.prompt_len])
    told = ask.logprobs is not None
    inner = {
        "index": output.choice,
        "text": text,
        "logprobs": completion_logprobs(job, output, offset) if told else None,
        "finish_reason": output.finish,
        "stop_reason": None,
        "prompt_token_ids": ids,
        "token_ids": [output.token] if ask.return_token_ids else None,
    }
    return {**chunk_head(ask, created), "choices": [inner]}


def whole_choice(job: Job, outputs: list[Output], delta_key: str = "content") -> Json:
    """One choice of an answer that is not streamed."""
    ask = job.ask
    tokens = [output.token for output in outputs if output.token is not None]
    text = "".join(map(text_of, tokens))
    finish = outputs[-1].finish
    ids = tokens if ask.return_token_ids else None
    choice = outputs[-1].choice
    if ask.chat:
        message: Json = {
            "role": "assistant", "content": text, "refusal": None, "annotations": None,
            "audio": None, "function_call": None, "reasoning": None,
        }  # fmt: skip
        if delta_key in ("reasoning", "reasoning_content"):
            half = len(tokens) // 2
            message["content"] = "".join(map(text_of, tokens[half:]))
            message[delta_key] = "".join(map(text_of, tokens[:half]))
        logprobs = None
        if ask.logprobs is not None:
            parts = [chat_logprobs(job, output)["content"][0] for output in outputs]
            logprobs = {"content": parts}
        return {
            "index": choice, "message": message, "logprobs": logprobs, "finish_reason": finish,
            "stop_reason": None, "token_ids": ids, "routed_experts": None,
        }  # fmt: skip
    prompt_ids = job.sequences[choice].tokens[: job.sequences[choice].prompt_len]
    return {
        "index": choice, "text": text, "logprobs": _whole_logprobs(job, outputs),
        "finish_reason": finish, "stop_reason": None, "token_ids": ids, "prompt_logprobs": None,
        "prompt_token_ids": prompt_ids if ask.return_token_ids else None, "routed_experts": None,
    }  # fmt: skip


def _whole_logprobs(job: Job, outputs: list[Output]) -> Json | None:
    if job.ask.logprobs is None:
        return None
    merged: Json = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
    offset = 0
    for output in outputs:
        for key, values in completion_logprobs(job, output, offset).items():
            merged[key] += values
        offset += len(text_of(output.token or 0))
    return merged


def whole_answer(
    job: Job, choices: list[Json], usage: Json, created: int, options: NodeOptions
) -> Json:
    """An answer that is not streamed."""
    ask = job.ask
    head: Json = {
        "id": ask.request_id,
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": created, "model": ask.model, "choices": choices, "service_tier": None,
        "system_fingerprint": options.fingerprint, "usage": usage,
    }  # fmt: skip
    if ask.chat:
        ids = list(ask.prompts[0]) if ask.return_token_ids else None
        head |= {"prompt_logprobs": None, "prompt_token_ids": ids, "prompt_text": None}
    metrics = timings(job, stream=False) if options.per_request_metrics else None
    return {
        **head,
        "kv_transfer_params": job.handoff,
        "ec_transfer_params": None,
        "metrics": metrics,
    }
