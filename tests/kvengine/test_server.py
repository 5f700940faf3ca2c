import json
import socket

import pytest
from tests.kvengine.conftest import Reply

from kvengine.identify import identify
from kvengine.server import Server, Unreachable
from kvengine.tokenize import floor_tokens, tokens_of
from kvpipe.process import ToolError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_nobody_listens() -> None:
    async with Server(f"http://user:secret@127.0.0.1:{free_port()}/v1") as server:
        with pytest.raises(Unreachable) as caught:
            await server.get("/health")
    message = str(caught.value)
    assert ": connection refused; is the server running? try: curl http://127.0.0.1:" in message
    assert "secret" not in message


async def test_unknown_host() -> None:
    async with Server("http://no-such-host.invalid:1") as server:
        with pytest.raises(Unreachable, match="unknown host"):
            await server.get("/")


async def test_silence_ends() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with Server(url, timeout_s=0.3) as server:
            with pytest.raises(Unreachable, match=r"no answer within 0\.3 s"):
                await server.get("/")


async def test_identity_of_a_real_vllm(serve) -> None:
    replay = await serve()
    replay.on("GET /v1/models", Reply.recorded("vllm_models.json"))
    replay.on("GET /version", Reply.recorded("vllm_version.json"))
    async with Server(replay.url + "/v1", api_key="k") as server:
        found = await identify(server, None)
        assert (found.engine, found.version, found.model) == ("vllm", "0.32.0", "tiny")
        assert (found.max_model_len, found.simulated) == (16384, False)
        assert found.root == "/models/tiny"
        with pytest.raises(ToolError, match="model 'nope' is not served here; served: tiny"):
            await identify(server, "nope")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply('{"error":"Unauthorized"}', 401), "needs a key: --api-key-file"),
        (Reply('{"detail":"Not Found"}', 404), "no OpenAI-compatible endpoint"),
        (Reply("<html>hello</html>"), "no OpenAI-compatible endpoint"),
        (Reply('{"data":[]}'), "serves no model yet"),
        (Reply('{"data":[{"id":"a"},{"id":"b"}]}'), "choose with --model: a, b"),
    ],
)
async def test_who_cannot_be_asked_is_one_line(serve, reply: Reply, message: str) -> None:
    replay = (await serve()).on("GET /v1/models", reply)
    async with Server(replay.url) as server:
        with pytest.raises(ToolError, match=message) as caught:
            await identify(server, None)
    assert "\n" not in str(caught.value)


async def test_aliases_and_adapters_are_no_second_model(serve) -> None:
    models = (
        '{"data":[{"id":"a","root":"/m"},{"id":"b","root":"/m"},'
        '{"id":"lora","root":"/l","parent":"a"}]}'
    )
    replay = (await serve()).on("GET /v1/models", Reply(models))
    async with Server(replay.url) as server:
        assert (await identify(server, None)).model == "a"
        assert (await identify(server, "lora")).model == "lora"


async def test_tokens_and_floor(serve) -> None:
    replay = (await serve()).on("POST /tokenize", Reply.recorded("vllm_tokenize.json"))
    async with Server(replay.url) as server:
        assert await tokens_of(server, "tiny", "text") == [53, 566, 267, 315, 304, 316, 1186, 16]
        assert await tokens_of(server, "tiny", [1, 2, 3]) == [1, 2, 3]
        replay.on("POST /tokenize", Reply('{"tokens":[7,8,9,1]}'), Reply('{"tokens":[7,8,2]}'))
        assert await floor_tokens(server, "tiny", "chat") == 2
        assert await floor_tokens(server, "tiny", "token_ids") == 0
        replay.on("POST /tokenize", Reply("", 404))
        assert await floor_tokens(server, "tiny", "completions") is None
    assert ['"messages"' in body for body in replay.bodies[-4:]] == [True, True, False, False]


async def test_a_server_with_another_key_for_its_tokenizer(serve) -> None:
    """llama.cpp (after its source) wants `content`, and answers without it that there are none."""
    replay = (await serve()).on("POST /tokenize", Reply('{"tokens":[]}'), Reply('{"tokens":[1,7]}'))
    async with Server(replay.url) as server:
        assert await tokens_of(server, "m", "two words") == [1, 7]
        assert json.loads(replay.bodies[1])["content"] == "two words"
        replay.on("POST /tokenize", Reply('{"tokens":[]}'))
        assert await tokens_of(server, "m", "two words") is None
        assert await tokens_of(server, "m", [{"role": "user", "content": "x"}]) is None
        assert await floor_tokens(server, "m", "chat") is None, "not known, rather than 0"
