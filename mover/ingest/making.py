"""What makes the files of a slide: sources held open, recipes that were proved over them, one file after the other.

A maker yields its pieces while their sources are open, the main file first, and says afterwards what was made. It
holds no more than one call of the parsing child at a time, so a folder of five thousand objects costs what sixty do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from mover import metrics
from mover.decide.filenames import words_of_name
from mover.decide.packs import Members, split_suffix
from mover.deid.deidentify import Prepared, prepare_slide
from mover.deid.proved import with_own_start
from mover.errors import ChangedWhileReading, FormatUnsupported, TierUnavailable
from mover.model.policy import DeidPolicy, ImagesPolicy
from mover.model.recipe import Recipe
from mover.model.slides import Decision
from mover.model.tiers import Fingerprint
from mover.sandbox import Sandbox
from mover.tiers.port import ReadTier
from mover.tiers.staging import FileEntry
from mover.transfer import Transfer


class Source(Struct, frozen=True):
    """One entry of a pack as it was when it was digested. `key` is an original name: it stays in memory."""

    key: str
    seen: Fingerprint
    blake3: str


class Piece(Struct, frozen=True):
    """One file of the output, as long as its source is open. `name` is relative to the slide's folder."""

    name: str
    source: FileEntry
    recipe: Recipe
    seen: Fingerprint


class Made(Struct, frozen=True):
    """What came of a pack. `count` is of what the proof counts: tiles of a slide, objects of a folder."""

    family: str
    extension: str
    facts: dict[str, Any]
    decisions: tuple[Decision, ...]
    evidence: dict[str, Any]
    verifier: str
    count: int
    copied_bytes: int
    thumbnail: bytes = b""


class Maker(Protocol):
    def pieces(self) -> Iterator[Piece]:
        """The files one after the other, each proved; the refusals of plan and proof are raised. May be asked for
        again, and gives the same."""

    def made(self) -> Made:
        """Once all pieces were taken."""


def digest_sources(tier: ReadTier, transfer: Transfer, keys: Sequence[str]) -> list[Source]:
    """Every file of a pack, read once (blocking)."""
    sources = []
    for key in keys:
        with tier.open(key) as opened:
            metrics.BYTES_READ.labels(tier.name).inc(opened.size_bytes)
            sources.append(Source(key, opened.fingerprint(), transfer.digest(opened, tier=tier.name).blake3))
    return sources


@contextmanager
def held(tier: ReadTier, sources: Sequence[Source], *, where: str) -> Iterator[list[FileEntry]]:
    """The sources open, each still what was digested."""
    with ExitStack() as stack:
        files = []
        for source in sources:
            opened = stack.enter_context(tier.open(source.key))
            if not isinstance(opened, FileEntry):
                raise TierUnavailable("slides are parsed through a descriptor, which this tier has none of",
                                      where=tier.name, hint="Declare batches on a posix tier.")  # fmt: skip
            if opened.fingerprint() != source.seen:
                raise ChangedWhileReading("a file of the pack changed after it was digested", where=where)
            files.append(opened)
        yield files


class SlideMaker:
    """A slide of one file, or one whose index names others."""

    def __init__(
        self,
        sandbox: Sandbox,
        tier: ReadTier,
        members: Members,
        sources: Sequence[Source],
        *,
        policy: ImagesPolicy,
        profile: DeidPolicy,
        number: str,
    ) -> None:
        self._sandbox, self._tier, self._members, self._sources = sandbox, tier, members, sources
        self._policy, self._profile, self._number = policy, profile, number
        self._prepared: Prepared | None = None

    def pieces(self) -> Iterator[Piece]:
        with held(self._tier, self._sources, where=self._number) as files:
            if self._prepared is None:
                self._prepared = self._prepare(files)
            for file in self._prepared.plan.files():
                source, opened = self._sources[file.source], files[file.source]
                # a part of a VMS slide is a picture that may have nothing to lose
                recipe = with_own_start(file.recipe, opened) if self._members.kind == "vms" else file.recipe
                yield Piece(file.path(self._number), opened, recipe, source.seen)

    def _prepare(self, files: list[FileEntry]) -> Prepared:
        folder = self._members.main.rpartition("/")[0]
        companions = [key.removeprefix(f"{folder}/") if folder else key for key in self._members.companions]
        prepared = prepare_slide(
            self._sandbox,
            files[0].fileno(),
            suffix=split_suffix(self._members.main.rpartition("/")[2])[1].lower(),
            known=known_of(self._members.files[:1]),
            thumbnail_px=self._policy.thumbnail_edge_px,
            companions=[(name, file.fileno()) for name, file in zip(companions, files[1:], strict=True)],
            number=self._number,
            drop_keys=self._profile.slides.drop_keys,
        )
        check_family(prepared.plan.family, policy=self._policy, profile=self._profile)
        return prepared

    def made(self) -> Made:
        assert self._prepared is not None
        plan, evidence = self._prepared.plan, self._prepared.evidence
        facts: dict[str, Any] = msgspec.to_builtins(plan.facts)
        return Made(
            family=plan.family,
            extension=plan.extension,
            # what cohorts may ask about a slide, flat: `levels` is their number, their sizes stand beside it
            facts={**facts, "levels": len(plan.facts.levels), "level_sizes": facts["levels"]},
            decisions=plan.decisions,
            evidence=msgspec.to_builtins(evidence),
            verifier=evidence.verifier,
            count=plan.tile_count,
            copied_bytes=sum(file.recipe.copied_bytes for file in plan.files()),
            thumbnail=self._prepared.thumbnail,
        )


def known_of(keys: Sequence[str]) -> tuple[str, ...]:
    """Words of the files' names that must not be found in any output: a slide's name is its barcode."""
    known: dict[str, None] = {}
    for key in keys:
        name = key.rpartition("/")[2]
        known.setdefault(split_suffix(name)[0])
        known.update(dict.fromkeys(words_of_name(name)))
    return tuple(known)


def check_family(family: str, *, policy: ImagesPolicy, profile: DeidPolicy) -> None:
    """A policy and a profile may both narrow what passes."""
    if family not in policy.accept:
        raise FormatUnsupported(f"policy {policy.name} does not accept {family}")
    if profile.slides.accept and family not in profile.slides.accept:
        raise FormatUnsupported(f"profile {profile.name} does not accept {family}")
