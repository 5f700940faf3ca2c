"""URLs as people write them: with or without `/v1`, with credentials that no record may carry."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from kvpipe.process import UsageError

SECRET_WORDS = ("key", "token", "secret", "password", "auth", "signature")
"""A query parameter whose name contains one of these has its value left out of records."""


def base_url(url: str) -> str:
    """`url` without a trailing slash or `/v1`; UsageError if it is no HTTP URL."""
    parts = _split(url)
    path = parts.path.rstrip("/")
    if path.endswith("/v1"):
        path = path[: -len("/v1")].rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def api_url(url: str) -> str:
    """`url` with `/v1` at its end, where the OpenAI-compatible API lives."""
    return base_url(url) + "/v1"


def redact(url: str) -> str:
    """`url` without user, password and the values of secret-looking query parameters.

    Text that is no URL comes back as it is: this is used on whatever goes into a record.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    if not parts.netloc:
        return url
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = f"{host}:{port}" if port is not None else host
    query = parts.query
    pairs = parse_qsl(query, keep_blank_values=True)
    if any(_is_secret(name) for name, _ in pairs):
        query = urlencode([(name, "" if _is_secret(name) else value) for name, value in pairs])
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def _is_secret(name: str) -> bool:
    return any(word in name.lower() for word in SECRET_WORDS)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises ValueError for a port that is no number
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{redact(url)}: not an http URL: write http://HOST:PORT")
    return parts
