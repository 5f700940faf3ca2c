import pytest

from kvengine.urls import api_url, base_url, redact
from kvpipe.process import UsageError


@pytest.mark.parametrize(
    "given",
    ["http://a:8000", "http://a:8000/", "http://a:8000/v1", "http://a:8000/v1/", " http://a:8000"],
)
def test_v1_may_be_there_or_not(given: str) -> None:
    assert base_url(given) == "http://a:8000"
    assert api_url(given) == "http://a:8000/v1"


def test_a_path_below_the_host_is_kept() -> None:
    assert base_url("https://h/team/v1") == "https://h/team"
    assert base_url("http://h:8080/metadata") == "http://h:8080/metadata"
    assert base_url("http://h/myv1") == "http://h/myv1"


@pytest.mark.parametrize("given", ["", "a:8000", "ftp://a", "http://", "http://a:port", "http//a"])
def test_what_is_no_url_says_how_to_write_one(given: str) -> None:
    with pytest.raises(UsageError, match="write http://HOST:PORT"):
        base_url(given)


def test_credentials_go() -> None:
    assert redact("http://user:secret@a:1/v1") == "http://a:1/v1"
    assert redact("http://a/x?api_key=s3cret&force=true") == "http://a/x?api_key=&force=true"
    assert redact("http://u@[::1]:9/x") == "http://[::1]:9/x"
    assert redact("docker restart vllm") == "docker restart vllm"
    with pytest.raises(UsageError) as caught:
        base_url("ftp://user:secret@a")
    assert "secret" not in str(caught.value)
