# vLLM + LMCache + NIXL as LMCache publishes them, and Mooncake's client, which that image lacks:
# without it a remote_url of mooncakestore:// fails when the engine starts.
ARG LMCACHE_TAG=v0.5.6
FROM lmcache/vllm-openai:${LMCACHE_TAG}
ARG MOONCAKE_VERSION=0.3.13.post1
RUN pip install --no-cache-dir mooncake-transfer-engine==${MOONCAKE_VERSION}
