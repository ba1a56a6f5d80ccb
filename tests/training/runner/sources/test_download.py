"""Where a token goes, and what a redirect may not do."""

import urllib.error
import urllib.request
from email.message import Message
from typing import Any

import pytest

from training.runner.sources.download import Digest, Remote, _Redirects, size_text


@pytest.mark.parametrize(
    ("there", "has_token"),
    [
        ("https://hub/api/stored", True),
        ("https://hub:8443/x", False),
        ("https://cdn/x", False),
        ("https://hub.evil/x", False),
    ],
)
def test_a_token_stays_on_its_host(there, has_token):
    request = urllib.request.Request("https://hub/resolve", headers={"Range": "bytes=5-"})
    request.add_unredirected_header("Authorization", "Bearer hush")

    answer: tuple[Any, ...] = (None, 302, "Found", Message(), there)
    new = _Redirects().redirect_request(request, *answer)

    assert new is not None
    assert new.get_header("Range") == "bytes=5-"
    assert new.has_header("Authorization") == has_token


def test_encryption_is_not_given_up():
    answer: tuple[Any, ...] = (None, 302, "Found", Message(), "http://hub/x")

    with pytest.raises(urllib.error.URLError, match="from https to http"):
        _Redirects().redirect_request(urllib.request.Request("https://hub/x"), *answer)


def test_a_token_is_not_part_of_what_is_shown():
    assert "hush" not in repr(Remote("x", "https://hub/x", Digest("sha256", "0"), None, "hush"))


def test_gits_hash_of_a_blob_is_gits(tmp_path):
    (tmp_path / "hello").write_bytes(b"hello\n")  # git hash-object hello

    assert Digest("git-sha1", "").of(tmp_path / "hello").value == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (302_008, "302 kB"), (410_886_729, "411 MB"), (1.5e13, "15 TB")]
)
def test_sizes_are_said_as_people_say_them(n, text):
    assert size_text(n) == text
