"""Tables and images in, ledger and documents out: the two looks of the child and what the vault says between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from mover.align.child import Answer, Request, Survey
from mover.align.gather import Gathered
from mover.clock import SYSTEM, Clock
from mover.decide.alignment import NamedImage, Subject
from mover.decide.matching import canonical_image
from mover.decide.searchagain import Dictionary
from mover.deid.identity import entity_key
from mover.deid.vault import Vault
from mover.model.policy import RecordsPolicy
from mover.sandbox import Sandbox

TIMEOUT_S = 900.0
# what a plan shows in the place of pseudonyms that only `apply` mints
_PLANNED = Subject(pseudonym="planned", offset_days=0)


class Examiner:
    """Shared by plan and apply, so that a plan is what would happen."""

    def __init__(self, sandbox: Sandbox, vault: Vault, *, clock: Clock = SYSTEM) -> None:
        self._sandbox = sandbox
        self._vault = vault
        self._clock = clock

    async def examine(
        self, project: str, policy: RecordsPolicy, tables: Gathered, images: Sequence[NamedImage], *, mint: bool
    ) -> Answer:
        """`mint=False` changes nothing anywhere. Raises IdentityErrors when a file must stop."""
        first = Request(policy=policy, images=list(images))
        survey = msgspec.msgpack.decode(await self._run("survey", tables, first), type=Survey)
        known = await self._vault.find_many(project, "image", survey.strangers)
        subjects = await self._subjects(survey.patients, mint=mint)
        second = msgspec.structs.replace(
            first,
            elsewhere=sorted(known),
            subjects=subjects,
            blocks=await self._blocks(survey.blocks, subjects, mint=mint),
            case_subjects=await self._subjects(survey.cases, mint=mint, space="case"),
            this_year=self._clock.now().year,
        )
        return msgspec.msgpack.decode(await self._run("align", tables, second), type=Answer)

    async def words(
        self, policy: RecordsPolicy, tables: Gathered, images: Sequence[NamedImage]
    ) -> list[Dictionary]:
        """What these tables say of the patients of published images: identifiers, for the memory of the search. The
        patients themselves come back as their pseudonyms."""
        answer = await self._run("words", tables, Request(policy=policy, images=list(images)))
        found = msgspec.msgpack.decode(answer, type=list[Dictionary])
        subjects = await self._subjects(sorted({patient for one in found for patient in one.patients}), mint=True)
        return [
            msgspec.structs.replace(one, patients=tuple(subjects[patient].pseudonym for patient in one.patients))
            for one in found
        ]

    async def remember_images(self, project: str, policy: RecordsPolicy, images: Sequence[NamedImage]) -> None:
        """So that later batches' tables know these names: keyed, in the vault, without a body."""
        keys = sorted({canonical_image(i.name, policy.extensions) for i in images if i.number is not None})
        await self._vault.seal_many(project, "image", [(key, b"") for key in keys])

    async def _subjects(self, keys: Sequence[str], *, mint: bool, space: str = "") -> dict[str, Subject]:
        if not mint:
            return dict.fromkeys(keys, _PLANNED)
        # a case and a patient with the same number are two subjects
        spaced = {key: f"{space}\x1f{key}" if space else key for key in keys}
        minted = await self._vault.mint_subjects(list(spaced.values()))
        return {
            key: Subject(pseudonym=minted[name].pseudonym, offset_days=minted[name].offset_days)
            for key, name in spaced.items()
        }

    async def _blocks(
        self, blocks: Mapping[str, str | None], subjects: Mapping[str, Subject], *, mint: bool
    ) -> dict[str, str]:
        """A block is its patient's, and goes when that one is erased."""
        if not mint:
            return dict.fromkeys(blocks, _PLANNED.pseudonym)
        keys = {block: entity_key("block", block) for block in blocks}
        whose = {keys[block]: subjects[patient].pseudonym for block, patient in blocks.items() if patient is not None}
        minted = await self._vault.mint_keys(keys.values(), subjects=whose)
        return {block: minted[key] for block, key in keys.items()}

    async def _run(self, function: str, tables: Gathered, request: Request) -> bytes:
        body = msgspec.msgpack.encode(request)
        return await asyncio.to_thread(
            self._sandbox.run, f"mover.align.child:{function}", (body,), tables.fds, timeout_s=TIMEOUT_S
        )
