"""From proved recipes to a slide that stands in the archive: written, read back cold, vouched for.

What a crash leaves (D14): files of an attempt that no sidecar names, removed by the next attempt that finds them; or
the sidecar and all its files, which the next attempt reads and adopts. Between the two there is nothing, because the
sidecar is put conditionally and last, however many files a slide has.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover import __version__
from mover.clock import SYSTEM, Clock
from mover.deid.proved import ProvedRecipe
from mover.errors import DigestMismatch, EntryExists, EntryMissing, RulesDiffer, TierError
from mover.ingest.making import Made, Maker, Piece
from mover.log import get_logger
from mover.model.policy import DeidPolicy
from mover.model.recipe import literal_ranges
from mover.model.sidecar import (
    Profile,
    Sidecar,
    SidecarFile,
    Thumbnail,
    decode_sidecar,
    encode_sidecar,
    sidecar_key,
    slide_folder,
)
from mover.tiers.port import PruneTier, ReadTier
from mover.transfer import Transfer, clear

log = get_logger("ingest")


class Attempt(Struct, frozen=True):
    """One try at one pack: where it writes, and under which profile."""

    number: str
    name: str
    source: ReadTier
    profile: Profile


class Published(Struct, frozen=True):
    """A slide that stands in the archive behind its sidecar, read back cold."""

    sidecar: Sidecar
    made: Made


class Publisher:
    """Everything here blocks and belongs in a worker thread."""

    def __init__(self, transfer: Transfer, *, site: str, clock: Clock = SYSTEM) -> None:
        self._transfer, self._site, self._clock = transfer, site, clock

    def publish(self, archive: PruneTier, attempt: Attempt, maker: Maker) -> Published:
        sidecar = self._vouched(archive, attempt.number)
        if sidecar is None:
            try:
                sidecar = self._write(archive, attempt, maker)
            except EntryMissing:
                # another attempt at the same scan was vouched for meanwhile, and swept ours away
                sidecar = self._vouched(archive, attempt.number)
                if sidecar is None:
                    raise
                self._adopt(archive, attempt, maker, sidecar)
        else:
            self._adopt(archive, attempt, maker, sidecar)
        self._sweep(archive, sidecar)
        return Published(sidecar, maker.made())

    # --- writing --------------------------------------------------------------------------------------------

    def _write(self, archive: PruneTier, attempt: Attempt, maker: Maker) -> Sidecar:
        folder = f"{slide_folder(attempt.number)}/{attempt.name}"
        main, *files = [self._write_piece(archive, folder, attempt, piece) for piece in maker.pieces()]
        made = maker.made()
        sidecar = Sidecar(
            number=attempt.number,
            site=self._site,
            family=made.family,
            extension=made.extension,
            key=main.key,
            size_bytes=main.size_bytes,
            blake3=main.blake3,
            segments=main.segments,
            thumbnail=self._write_thumbnail(archive, f"{folder}/{attempt.number}.jpg", made.thumbnail, attempt),
            facts=made.facts,
            evidence=made.evidence,
            created_at=self._clock.now().isoformat(),
            software=f"mover {__version__}",
            files=tuple(files),
            profile=attempt.profile,
            literals=main.literals,
        )
        try:
            archive.put(sidecar_key(attempt.number), [encode_sidecar(sidecar)])
        except EntryExists:
            # another attempt was faster: its objects are the slide, ours are removed by the caller
            vouched = self._vouched(archive, attempt.number)
            assert vouched is not None
            return vouched
        return sidecar

    def _write_piece(self, archive: PruneTier, folder: str, attempt: Attempt, piece: Piece) -> SidecarFile:
        key = f"{folder}/{piece.name}"
        moved = self._transfer.run_recipe(
            piece.recipe,
            source=piece.source,
            source_tier=attempt.source,
            target=archive,
            key=key,
            clearance=clear(ProvedRecipe(piece.recipe, seen=piece.seen), piece.source, piece.recipe),
            seen=piece.seen,
            segments=True,
        )
        return SidecarFile(
            piece.name, key, moved.digest.size_bytes, moved.digest.blake3, moved.digest.segments,
            literals=literal_ranges(piece.recipe),
        )  # fmt: skip

    def _write_thumbnail(self, archive: PruneTier, key: str, picture: bytes, attempt: Attempt) -> Thumbnail | None:
        if not picture:
            return None
        with suppress(EntryExists):  # ours, when the answer to an earlier request was lost; the bytes decide
            archive.put(key, [picture], size_bytes=len(picture))
        if b"".join(archive.stream(key, cold=True)) != picture:
            raise DigestMismatch("a thumbnail reads back differently", where=attempt.number)
        return Thumbnail(key, len(picture), blake3(picture).hexdigest())

    # --- what stands already ----------------------------------------------------------------------------------

    def _vouched(self, archive: ReadTier, number: str) -> Sidecar | None:
        try:
            return decode_sidecar(archive.read(sidecar_key(number)))
        except EntryMissing:
            return None

    def _adopt(self, archive: ReadTier, attempt: Attempt, maker: Maker, sidecar: Sidecar) -> None:
        """An earlier attempt was cut off after its sidecar: believe its bytes only after reading them."""
        check_rules(sidecar.profile.rules if sidecar.profile else "", attempt.profile)
        vouched = {file.name: (file.key, file.blake3) for file in sidecar.files}
        vouched[sidecar.main_name] = (sidecar.key, sidecar.blake3)
        for piece in maker.pieces():
            key, told = vouched.pop(piece.name, ("", ""))
            expected = self._transfer.digest_recipe(piece.recipe, piece.source, tier=attempt.source.name)
            if expected.blake3 != told or self._transfer.digest_stream(archive.stream(key, cold=True)).blake3 != told:
                raise DigestMismatch("the archive holds other bytes under this number", where=sidecar.number)
        if vouched:
            raise DigestMismatch("the archive holds other files under this number", where=sidecar.number)

    def _sweep(self, archive: PruneTier, sidecar: Sidecar) -> None:
        """Attempts that were cut off leave objects no sidecar names; only our own number's folder is looked at.

        The slide stands whatever becomes of them: two attempts may sweep at once, and an archive may refuse."""
        try:
            for entry in list(archive.list(slide_folder(sidecar.number))):
                if entry.key not in sidecar.keys:
                    with suppress(EntryMissing):
                        archive.tidy(entry.key)
        except TierError as error:
            log.warning("attempts not swept", number=sidecar.number, code=error.code)


def applied(profile: DeidPolicy, *, dicom: bool) -> Profile:
    """What a slide remembers of its profile. Of the rules only those count that its kind obeys."""
    rules = [profile.dicom, profile.pixels] if dicom else [profile.slides.drop_keys]
    return Profile(profile.name, profile.version, _digest(profile), _digest(rules))


def check_rules(made_under: str, ours: Profile) -> None:
    """One scan has one slide (D19): what was published under other rules is neither adopted nor granted. Slides from
    before there were profiles were made under the default rules."""
    if made_under not in (ours.rules, "") or (not made_under and ours.rules != _FIRST_RULES):
        raise RulesDiffer("this scan was published under the rules of another profile")


def _digest(value: object) -> str:
    return blake3(msgspec.json.encode(value, order="sorted")).hexdigest()


_FIRST_RULES = applied(DeidPolicy(), dicom=False).rules
