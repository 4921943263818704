"""What only buckets can get wrong: credentials, plain text, proxies, lost answers, stores that promise too much."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from mover.demo.seaweed import Seaweed
from mover.errors import (
    ChangedWhileReading,
    EntryExists,
    LimitExceeded,
    MoverError,
    SettingsInvalid,
    TierDenied,
    TierUnavailable,
)
from mover.tiers import object as object_module
from mover.tiers import object_place
from mover.tiers.object import ObjectTier, read_credentials
from tests.support.faultproxy import FaultProxy
from tests.support.seaweed import locked_bucket, object_tier


def credentials(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return path


AWS = "[default]\naws_access_key_id = K%1\naws_secret_access_key = S\n"


def test_credentials_come_in_two_common_forms(tmp_path: Path) -> None:
    """The file people have already; a percent sign is no interpolation."""
    found = read_credentials(credentials(tmp_path, AWS))
    assert (found.access_key_id, found.secret_access_key, found.session_token) == ("K%1", "S", "")
    json = '{"access_key_id": "K", "secret_access_key": "S", "session_token": "T"}'
    assert read_credentials(credentials(tmp_path, json)).session_token == "T"


@pytest.mark.parametrize(
    ("text", "mode"), [("", 0o600), ("{", 0o600), ("[other]\n", 0o600), ('{"access_key_id": "K"}', 0o600), (AWS, 0o644)]
)
def test_half_a_credentials_file_is_an_error_and_never_quoted(tmp_path: Path, text: str, mode: int) -> None:
    """Never a guess, and never a secret in an error."""
    with pytest.raises(SettingsInvalid) as caught:
        read_credentials(credentials(tmp_path, text, mode))
    assert "K%1" not in str(caught.value)
    with pytest.raises(SettingsInvalid):
        read_credentials(tmp_path / "missing")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("s3://b", "http://storage.example.org"), ("file:///x", "http://127.0.0.1:1"), ("s3://", "http://127.0.0.1:1")],
)
def test_plain_text_beyond_this_machine_is_refused(tmp_path: Path, url: str, endpoint: str) -> None:
    """164.312(e): TLS everywhere except loopback."""
    with pytest.raises(SettingsInvalid):
        ObjectTier("a", "deidentified", url=url, endpoint=endpoint, credentials_file=credentials(tmp_path, AWS))


def test_loopback_ignores_proxies(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 54: http_proxy swallowed local calls."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    object_tier(weed).check_identity()


def test_a_bucket_without_identity_is_unavailable(weed: Seaweed) -> None:
    """The right endpoint with the wrong prefix must not look like an empty archive."""
    tier = ObjectTier(
        "archive",
        "deidentified",
        url=f"s3://{weed.bucket}/nobody-was-here",
        endpoint=weed.endpoint,
        credentials_file=weed.credentials_file,
    )
    with pytest.raises(TierUnavailable, match="no tier identity"):
        tier.put("x", [b"x"])


def test_wrong_credentials_are_denied(weed: Seaweed, tmp_path: Path) -> None:
    """A person mends that, so it is not "unavailable"; and nothing of the key is in the error."""
    wrong = credentials(tmp_path, AWS)
    tier = ObjectTier(
        "archive", "deidentified", url=f"s3://{weed.bucket}/x", endpoint=weed.endpoint, credentials_file=wrong
    )
    with pytest.raises(TierDenied) as caught:
        tier.read("secret-key-name")
    assert "secret-key-name" not in str(caught.value) and caught.value.__cause__ is None


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, and to be tried again later."""
    monkeypatch.setattr(object_place, "RESENDS", 0)
    tier = ObjectTier(
        "archive",
        "deidentified",
        url="s3://b/x",
        endpoint="http://127.0.0.1:9",
        credentials_file=credentials(tmp_path, AWS),
    )
    with pytest.raises(TierUnavailable):
        tier.read("x")


def test_an_object_replaced_while_open_is_noticed(weed: Seaweed) -> None:
    """Case 43: later reads are of the opened version or fail."""
    tier = object_tier(weed)
    tier.put("name", [b"first version" + bytes(1 << 20)])
    with tier.open("name") as source:
        assert source.read(1, 4) == b"irst"
        before = source.fingerprint()
        tier.remove("name")
        tier.put("name", [b"other version" + bytes(1 << 20)])
        assert (source.read(0, 5), source.fingerprint()) == (b"first", before), "what came with the opening"
        for late in (lambda: source.read(0, 1 << 20), lambda: source.read_into(1 << 20, memoryview(bytearray(5)))):
            with pytest.raises(ChangedWhileReading):
                late()


def test_opening_a_small_object_is_the_only_request_it_needs(weed: Seaweed) -> None:
    """Tens of thousands of small objects are round trips and nothing else."""
    with FaultProxy(weed.endpoint) as proxy:
        tier = object_tier(weed, endpoint=proxy.endpoint)
        tier.put("small", [b"abc"])
        tier.put("empty", [])
        before = len(proxy.seen)
        with tier.open("small") as source:
            assert (source.read(0, 3), source.size_bytes) == (b"abc", 3) and source.fingerprint().mark
        assert len(proxy.seen) == before + 1
        with tier.open("empty") as source:
            assert source.read(0, 0) == b"" and source.fingerprint() == tier.stat("empty").fingerprint


@pytest.mark.parametrize("landed", [True, False])
def test_after_a_lost_answer_the_bytes_decide(weed: Seaweed, monkeypatch: pytest.MonkeyPatch, landed: bool) -> None:
    """Case 39: a completed upload whose answer was lost comes back as an error. The way of stores whose uploads only
    obstore knows (Azure, Google)."""
    tier = object_tier(weed)
    monkeypatch.setattr(tier, "_uploads", None)
    honest = object_module.obstore.put

    def losing(store: object, key: str, chunks: object, **options: object) -> None:
        if landed:
            honest(store, key, chunks, **options)  # type: ignore[arg-type]
        else:
            for _ in chunks:  # type: ignore[attr-defined]
                continue
        raise GenericError("lost")

    tier.check_identity()
    monkeypatch.setattr(object_module.obstore, "put", losing)
    data = [os.urandom(1 << 20)] * 10
    if landed:
        tier.put("name", data)
        assert tier.read("name") == b"".join(data)
    else:
        with pytest.raises(TierUnavailable):
            tier.put("name", data)


class _Careless(BaseHTTPRequestHandler):
    """A store that takes If-None-Match and overwrites all the same, as some do."""

    objects: dict[str, bytes] = {}

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["content-length"]))
        self._answer(200, b"")

    def do_GET(self) -> None:
        body = self.objects.get(self.path)
        self._answer(404 if body is None else 200, body or b"")

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"x"')
        self.send_header("last-modified", "Sat, 21 Nov 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def careless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Careless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_store_that_overwrites_cannot_be_an_archive(careless: str, tmp_path: Path) -> None:
    """No capability may be assumed from "S3-compatible": it is tried, and the refusal says why."""
    tier = ObjectTier(
        "archive",
        "deidentified",
        url=f"s3://b/{secrets.token_hex(4)}",
        endpoint=careless,
        credentials_file=credentials(tmp_path, AWS),
    )
    assert not tier.traits.conditional_put and not tier.traits.range_read
    with pytest.raises(TierDenied, match="cannot be an archive") as caught:
        tier.establish()
    assert "If-None-Match" in caught.value.advice


def test_errors_of_the_library_never_carry_keys(weed: Seaweed) -> None:
    """obstore's messages quote URLs and keys; ours are our own."""
    tier = object_tier(weed)
    for call in (tier.stat, tier.read, tier.remove, lambda k: list(tier.stream(k))):
        with pytest.raises(MoverError) as caught:
            call("SMITH-JANE")
        assert "SMITH" not in f"{caught.value} {caught.value.__cause__}" and caught.value.__suppress_context__


def test_a_small_upload_that_the_transport_sent_twice_is_one_upload(
    weed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the first sending was lost, and the second finds the name taken: by our own bytes. Somebody
    else's bytes under that name stay, and the attempt does not claim or remove them."""
    tier = object_tier(weed)
    small = tier.put_small

    def sent_twice(key: str, data: bytes) -> str:
        small(key, data)
        return small(key, data)

    monkeypatch.setattr(tier, "put_small", sent_twice)
    attempt = tier.attempt("n/1/a.svs", size_bytes=3)
    attempt.write([b"abc"])
    assert b"".join(attempt.stream_cold()) == b"abc"

    small("n/2/a.svs", b"xyz")
    other = tier.attempt("n/2/a.svs", size_bytes=3)
    with pytest.raises(EntryExists):
        other.write([b"abc"])
    other.abandon()
    assert tier.read("n/2/a.svs") == b"xyz"


def test_what_a_store_can_do_is_found_by_trying(weed: Seaweed) -> None:
    """SeaweedFS honours all of it; a bucket without versions and locks says so."""
    traits = object_tier(weed).traits
    assert traits.conditional_put and traits.conditional_complete and traits.checksum_rejection and traits.multipart
    assert not traits.versioning and not traits.object_lock


@pytest.mark.slow
def test_a_lock_is_found_by_trying_to_delete_what_it_keeps(weed: Seaweed) -> None:
    """Some stores take the flag and protect nothing: a version is asked to go, and must be refused."""
    traits = object_tier(locked_bucket(weed)).traits
    assert traits.versioning and traits.object_lock


def test_a_probe_leaves_nothing_behind(weed: Seaweed) -> None:
    """Neither objects nor open uploads: it runs at every start."""
    tier = object_tier(weed)
    tier.probe()
    assert tier.control is not None and list(tier.control.uploads(tier.where.prefix)) == []
    stored = tier._connection.store
    assert [meta["path"] for page in object_module.obstore.list(stored) for meta in page] == [".mover/tier.json"]


def test_the_tiers_own_folder_is_listed_only_to_who_names_it(weed: Seaweed) -> None:
    """Checkpoints of the audit stand there: no walk takes them for content, and whoever compares them finds all."""
    made = object_tier(weed)
    made.put("slide", [b"1"])
    made.put(".mover/audit/demo/000000000001.json", [b"{}"])
    assert [entry.key for entry in made.list()] == ["slide"]
    assert [entry.key for entry in made.list(".mover/audit/demo")] == [".mover/audit/demo/000000000001.json"]


def test_a_read_only_bucket_is_pinned_and_never_written(weed: Seaweed) -> None:
    """D11: a source somebody else fills. Its address is its identity; without a listing it is not there."""
    filled = object_tier(weed)
    filled.put("scan", [b"abc"])

    def opened(url: str, identity: str | None = None) -> ObjectTier:
        return ObjectTier(
            "scans", "identified", url=url, endpoint=weed.endpoint, credentials_file=weed.credentials_file,
            role="source", read_only=True, identity=identity,
        )  # fmt: skip

    url = f"s3://{weed.bucket}/{filled.where.prefix}"
    identity = opened(url).establish()
    tier = opened(url, identity)
    tier.check_identity()
    assert tier.read("scan") == b"abc" and tier.traits.range_read and not tier.traits.conditional_put
    for write in (lambda: tier.put("x", [b"x"]), lambda: tier.remove("scan"), lambda: tier.attempt("x", size_bytes=1)):
        with pytest.raises(TierDenied):
            write()
    with pytest.raises(TierUnavailable):
        opened(f"s3://{weed.bucket}/elsewhere", identity).check_identity()
    assert {entry.key for entry in filled.list()} == {"scan"}


def test_the_next_level_of_a_bucket_can_be_listed_in_parallel(weed: Seaweed) -> None:
    """Shards of a walk: each prefix by its own thread, and what stands beside them is not lost."""
    tier = object_tier(weed)
    names = ["top", "a/one", "a/b/two", "c/three", "c/four"]
    for name in names:
        tier.put(name, [b"x"])
    level = tier.level()
    assert level.prefixes == ("a", "c") == tuple(tier.prefixes()) and [e.key for e in level.entries] == ["top"]
    below = [entry.key for prefix in level.prefixes for entry in tier.list(prefix)]
    assert sorted(below + ["top"]) == sorted(names)
    assert [entry.key for entry in tier.list(after="c/four")] == ["c/three", "top"]


def test_a_level_too_wide_to_be_held_says_so(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: ten million objects under one prefix are listed as a stream, never gathered."""
    tier = object_tier(weed)
    tier.put("a", [b"x"])
    monkeypatch.setattr(object_module, "LEVEL_PAGES", 0)
    with pytest.raises(LimitExceeded):
        tier.level()
