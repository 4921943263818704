"""P6 and P7: an S3 bucket on SeaweedFS. The server runs on the same cores, so it is the limit of every client;
what survives on a real endpoint is the client's CPU per byte, which stands beside.

Ours is clocked inside: S3 drivers take a second to load, once in a daemon's life. The whole process stands beside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from msgspec import structs
from obstore.store import S3Store

from bench import corpora, peers
from bench.context import ENVIRONMENT, Context, Course, Judged, compete, inside, ours, slug
from bench.measure import Contestant, RunFailed, Work
from bench.peers import Peer, Store
from mover.demo import seaweed
from mover.tiers.object import ObjectTier

WHOLE, VERIFIED = "ours", "ours, read back"
OURS = inside(WHOLE)
PEERS = [peer.name for peer in peers.s3_peers(put=True)]
ROUNDS = 3


def objects(context: Context) -> None:
    sizes = context.sizes
    need = 2 * (sizes.object_bytes + sizes.objects * 72_000) * (len(PEERS) + 2) * ROUNDS
    place = context.large_place("objects", need)
    with _served(context) as (store, bucket):
        course = _PutCourse(
            context, corpora.slides(place.folder / "large", [sizes.object_bytes]), place, discard=True,
            env={**ENVIRONMENT, **store.env}, servers=store.pids, bucket=bucket, bucket_name=store.bucket,
        )  # fmt: skip
        _race_large(course)
        corpus = corpora.many(place.folder / "small", sizes.objects, low=16_000, high=128_000)
        _race_small(structs.replace(course, corpus=corpus))
    place.remove()


def _race_large(course: _PutCourse) -> None:
    gigabytes = course.corpus.size_bytes / 1e9
    for verb in ("put", "get"):
        found = _race(course, verb, amount=gigabytes, unit="GB/s")
        work = f"{verb} one object of {course.corpus.size_bytes / 1e6:.0f} MB"
        found.claim(f"P6-{verb}", work, tool=OURS, against=PEERS, goal=0.9)
        found.claim(f"P6-{verb}-cpu", f"{work}: client CPU", tool=OURS, against=PEERS, goal=0.5, figure="cpu")


def _race_small(course: _PutCourse) -> None:
    for verb in ("put", "get"):
        found = _race(course, verb, amount=course.corpus.files / 1e3, unit="thousand objects/s")
        work = f"{verb} {course.corpus.files} objects of 16 to 128 KB"
        found.claim(f"P7-{verb}", work, tool=OURS, against=PEERS, goal=1.4)


def _race(course: _PutCourse, verb: str, *, amount: float, unit: str) -> Judged:
    others = peers.s3_peers(put=verb == "put")
    if verb == "put":
        tools = [ours(WHOLE, "put", "--no-readback"), *others, ours(VERIFIED, "put", rounds=2)]
        return compete(course, tools, amount=amount, unit=unit, rounds=min(ROUNDS, course.context.sizes.rounds))
    given = course.fill()
    # every GET is hashed on the way; what was written on our side is read back as for any other copy
    tools = [ours(WHOLE, "get", "--no-readback"), *others, ours(VERIFIED, "get", rounds=2)]
    return compete(given, tools, amount=amount, unit=unit, rounds=min(ROUNDS, course.context.sizes.rounds))


class _PutCourse(Course, frozen=True, kw_only=True):
    """The other end is a fresh prefix of the bucket; durability there is the server's word."""

    bucket: S3Store
    bucket_name: str

    def enter(self, peer: Peer) -> Contestant:
        def prefix(number: int) -> str:
            return f"put/{self.corpus.folder.name}/{slug(peer.name, number)}"

        def prepare(number: int) -> Work:
            self.settle(number)
            target = f"{self.bucket_name}/{prefix(number)}"
            steps = peer.steps(str(self.corpus.folder), target, str(self.context.scratch))
            return Work(steps, env=self.env, servers=self.servers)

        def check(number: int) -> None:
            metas = [meta for page in obstore.list(self.bucket, prefix=prefix(number)) for meta in page]
            found = len(metas), sum(meta["size"] for meta in metas)
            if found != (self.corpus.files, self.corpus.size_bytes):
                raise RunFailed(f"made {found[0]} objects of {found[1]} bytes")
            obstore.delete(self.bucket, [meta["path"] for meta in metas])

        return Contestant(peer.name, prepare, check, peer.rounds)

    def fill(self) -> Course:
        """Objects that everybody gets, and the course of getting them."""
        given = f"given/{self.corpus.folder.name}"
        for path in corpora.files_of(self.corpus.folder):
            obstore.put(self.bucket, f"{given}/{os.path.relpath(path, self.corpus.folder)}", Path(path))
        return Course(
            self.context, self.corpus, self.place, discard=True, env=self.env, servers=self.servers,
            source=f"{self.bucket_name}/{given}",
        )  # fmt: skip


@contextmanager
def _served(context: Context) -> Iterator[tuple[Store, S3Store]]:
    """SeaweedFS below the root, its bucket registered as a tier, ended with the block."""
    server = seaweed.start(context.root / "weed", bucket="bench")
    try:
        keys = seaweed.load_credentials(Path(server.credentials_file))
        ObjectTier(
            "bucket", "deidentified", url=f"s3://{server.bucket}", endpoint=server.endpoint, region=server.region,
            credentials_file=server.credentials_file,
        ).establish()  # fmt: skip
        bucket = S3Store(
            server.bucket,
            endpoint=server.endpoint,
            region=server.region,
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
            client_options={"allow_http": True},
        )
        store = Store(
            server.endpoint, server.region, server.bucket, keys.access_key_id, keys.secret_access_key,
            server.credentials_file, (server.pid,),
        )  # fmt: skip
        yield store, bucket
    finally:
        seaweed.stop(server)
