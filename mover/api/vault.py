"""The vault's own questions, for custodians alone: reveal, export, erase, import. Nothing is opened here: originals go
out as they are sealed for the two key files."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Planned, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("GET", "/v1/vault", "vault.read", wire.VaultStatus)
async def status(call: Call[None, Query]) -> wire.VaultStatus:
    """Of which generation the vault's key is, and for which pair of key files originals are sealed."""
    return await call.rooms.vault.status(call.project)


@OPERATIONS.add("POST", "/v1/vault/reveal", "vault.reveal", wire.VaultCopies, body=wire.VaultRevealRequest)
async def reveal(call: Call[wire.VaultRevealRequest, Query]) -> wire.VaultCopies:
    """The sealed originals of numbers and subjects, for a purpose and both key files; recorded, refused or not."""
    return await call.rooms.vault.reveal(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("POST", "/v1/vault/export", "vault.reveal", wire.VaultCopies, body=wire.VaultExportRequest)
async def export(call: Call[wire.VaultExportRequest, Query]) -> wire.VaultCopies:
    """One page of the UID or patient map of the project, under the guard of reveal."""
    return await call.rooms.vault.export(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("POST", "/v1/vault/erase", "vault.erase", wire.VaultErased, body=wire.VaultEraseRequest, query=Planned)
async def erase(call: Call[wire.VaultEraseRequest, Planned]) -> wire.VaultErased:
    """Destroy what ties one subject to its pseudonym and withdraw its slides; restores honour it."""
    if call.query.plan:
        return await call.rooms.vault.plan_erase(call.project, call.actor, call.body)
    return await call.rooms.vault.erase(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add(
    "POST", "/v1/vault/import", "vault.import", wire.VaultImported, body=wire.VaultImportRequest, query=Planned
)
async def import_rows(call: Call[wire.VaultImportRequest, Planned]) -> wire.VaultImported:
    """Take over lines of an honest broker's crosswalk; what stands is never overwritten."""
    return await call.rooms.vault.import_rows(
        call.project, call.actor, call.body, plan=call.query.plan, request=call.request
    )
