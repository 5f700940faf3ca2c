"""URLs as people write them: with or without `/v1`, with credentials that no record may carry."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from kvpipe.process import UsageError

SECRET_WORDS = ("key", "token", "secret", "password", "auth", "signature", "cookie")
"""A query parameter or header whose name contains one of these is left out of records."""
_USER = re.compile(r"(?<=://)[^\s/?#]*@")
_USER_OF_NO_URL = re.compile(r"(?<=://)[^\s]*@|(?:^|(?<==))[^\s/@=]+:(?!//)[^\s@]+@")
_PARAMETER = re.compile(r"([?&]([^=&\s#]*)=)[^&\s#]*")
_AUTHORIZATION = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?\w+\s+)[^\s\"']+")


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

    Other text, a command with a URL in it or a URL that was mistyped, loses the same and else stays
    as it is: this is used on whatever goes into a record or a message.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return _redact_text(_USER_OF_NO_URL.sub("", url))
    if not parts.netloc or " " in url:
        return _redact_text(url if "://" in url else _USER_OF_NO_URL.sub("", url))
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = f"{host}:{port}" if port is not None else host
    query = parts.query
    pairs = parse_qsl(query, keep_blank_values=True)
    if any(is_secret(name) for name, _ in pairs):
        query = urlencode([(name, "" if is_secret(name) else value) for name, value in pairs])
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def redact_all(value: object) -> object:
    """JSON-like `value` with every text in it redacted, whatever key it stands under."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def _redact_text(text: str) -> str:
    def emptied(found: re.Match[str]) -> str:
        return found[1] if is_secret(unquote(found[2])) else found[0]

    return _AUTHORIZATION.sub(r"\1...", _PARAMETER.sub(emptied, _USER.sub("", text)))


def is_secret(name: str) -> bool:
    """Whether what stands under this name is nobody else's business."""
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


def without_credentials(url: str, given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """`url` without user and password, and the headers with them as Basic authorization."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, dict(given)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    if any(name.lower() == "authorization" for name in given):
        return bare, dict(given)
    basic = f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
    return bare, {"Authorization": basic, **given}


def has_credentials(text: str) -> bool:
    """Whether a URL in `text` names a user or a password."""
    return _USER.search(text) is not None


def origin(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port: what one server is; null for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return parts.scheme, parts.hostname or "", port
