"""Every route, from the document that describes them: who may, and whether the document tells the truth."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mover.api import OPERATIONS, make_app
from mover.decide.access import ACTIONS, ROLES, judge
from mover.model import wire
from tests.api.conftest import Served
from tests.api.small_rooms import SmallAccess, small_rooms

PEOPLE = [role for role in ROLES if role != "scheduler"]
BODIES: dict[str, Any] = {
    "BatchRequest": {"folder": "2026-01"},
    "RecordsRequest": {"batch": "batch-1", "files": {"case": "case.csv"}},
    "TablesLook": {"purpose": "declare the tables"},
    "DumpRequest": {},
    "AuditRestoreRequest": {"reason": "the disk broke"},
    "AuditRetirementRequest": {"before": "2020-01-01T00:00:00Z", "reason": "the disk is full"},
    "CohortRequest": {"name": "prostate", "expression": "gleason >= 7"},
    "CountRequest": {"expression": "gleason >= 7"},
    "DescribeRequest": {"expression": "gleason >= 7", "columns": ["gleason"]},
    "SplitRequest": {"parts": {"train": 0.8, "test": 0.2}},
    "RunRequest": {"cohort": "prostate"},
    "TransferRequest": {"sources": [{"tier": "nas", "prefix": "in"}], "to": "cold"},
    "VerificationRequest": {"tier": "archive"},
    "FinishRequest": {},
    "RestoreRequest": {"to": "/restored", "snapshot": "snapshot-1"},
    "HoldRequest": {"reason": "a paper"},
    "TagRequest": {"tags": ["paper"]},
    "TagChangeRequest": {"tag": "look-again", "expression": "gleason >= 7"},
    "SimulationRequest": {"keep": {"last": 3}},
    "TurnRequest": {"kind": "prune", "policy": "protect"},
    "KeyRequest": {"name": "anns"},
    "PolicyCheckRequest": {"text": "kind: stage"},
    "PolicyChangeRequest": {"text": "kind: stage", "reason": "longer leases", "digest": "0" * 64},
    "PolicyRemovalRequest": {"digest": "0" * 64, "reason": "no flash any more"},
    "ShorteningRequest": {"kind": "shorten", "policy": "protect", "reason": "too many"},
    "TokenRequest": {"actor": "slurm", "role": "operator"},
    "AlarmTestRequest": {"receiver": "pager"},
    "ProjectChoice": {"project": "demo"},
    "PasswordChange": {"old": "the one before", "new": "four random words"},
    "OwnTokenRequest": {"label": "laptop", "expires_at": "2999-01-01T00:00:00Z"},
    "AccountRequest": {"name": "ann", "role": "viewer"},
    "PasswordRequest": {},
    "GrantRequest": {"role": "viewer"},
    "ScanRequest": {"tier": "archive"},
    "RulingRequest": {"action": "reinstate", "reason": "it is a maker's name"},
    "RulingDecision": {"decision": "grant", "reason": "looked at the label"},
    "AdoptionRegister": {"reason": "the verdicts are sound"},
    "AdoptionRequest": {"tier": "archive", "reason": "the honest broker says so"},
    "QuarantineDecisionRequest": {"action": "retry", "reason": "the scanner sent them again"},
    "QuarantineDraftRequest": {"column": "ward phone"},
    "QuarantineReview": {"decision": "confirm", "reason": "looked at two of them"},
    "QuarantineRevokeRequest": {"reason": "decided on the wrong day"},
    "VaultRevealRequest": {"names": ["S1"], "purpose": "call the ward about a label"},
    "VaultExportRequest": {"what": "uids", "purpose": "score the release"},
    "VaultEraseRequest": {"subject": "S1", "purpose": "consent was withdrawn"},
    "VaultImportRequest": {"rows": [{"line": 2, "patient": "1", "pseudonym": "A-1"}], "purpose": "the broker's table"},
    "RevealRequest": {"packs": ["pack-1"], "purpose": "call the ward about a label"},
}


async def document(served: Served) -> dict[str, Any]:
    async with served.ask("GET", "/openapi.json", role="") as response:
        return json.loads(await response.read())


def send(
    served: Served, method: str, path: str, said: dict[str, Any], role: str, *, session: bool = False
) -> Any:
    more: dict[str, Any] = {"params": {}}
    for parameter in said["parameters"]:
        path = path.replace("{" + parameter["name"] + "}", f"{parameter['name']}-1")
        if parameter["in"] == "query" and parameter["required"]:
            more["params"][parameter["name"]] = "x"
    if "requestBody" in said:
        reference = said["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        more["json"] = BODIES[reference.rpartition("/")[2]]
    headers = {"Idempotency-Key": "k"} if method == "post" else {}
    if role == "scheduler":
        headers["Mover-Acts-For"] = "1000"
    if session:
        secret = f"session-{role}"
        headers |= {"Cookie": f"mover={secret}", "Mover-CSRF": secret[::-1]}
    return served.ask(method.upper(), path, role="" if session else role, headers=headers, **more)


async def test_every_route_answers_every_role_as_the_table_says(served: Served) -> None:
    """The one table in decide.access is the truth; a route that forgot to ask would show here."""
    cells = 0
    for path, methods in (await document(served))["paths"].items():
        for method, said in methods.items():
            if "x-mover-action" not in said:
                continue
            for role, session in [*((role, False) for role in ROLES), *((role, True) for role in PEOPLE)]:
                async with send(served, method, path, said, role, session=session) as response:
                    await response.read()
                verdict = judge(role, said["x-mover-action"])
                good = response.status < 300 or response.status == 409
                seen = {403: "denied", 404: "hidden"}.get(response.status, "allowed" if good else response.status)
                assert seen == verdict, (role, method, path, response.status)
                cells += 1
            async with send(served, method, path, said, "") as response:
                assert response.status == 401, (method, path)
    assert cells == len([*ROLES, *PEOPLE]) * len(OPERATIONS) > 100


async def test_every_route_is_in_the_document(served: Served) -> None:
    app = make_app(small_rooms(), SmallAccess(), version="0")
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    described = {
        (method.upper(), path) for path, methods in (await document(served))["paths"].items() for method in methods
    }
    assert {(method, path) for method, path in routes if method != "HEAD"} == described


async def test_the_document_is_openapi_3_1_without_dangling_references(served: Served) -> None:
    """Schedulers generate clients from it."""
    said = await document(served)
    assert said["openapi"].startswith("3.1.")
    text = json.dumps(said)
    schemas = said["components"]["schemas"]
    for piece in text.split('"#/components/schemas/')[1:]:
        assert piece.partition('"')[0] in schemas
    names = [one["operationId"] for methods in said["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))
    assert all(one["summary"].endswith((".", "?")) for methods in said["paths"].values() for one in methods.values())


async def test_answers_have_the_shape_the_document_promises(served: Served) -> None:
    """Decoding strictly as the declared type finds a field that was forgotten or renamed."""
    for operation in OPERATIONS:
        if operation.answer is str:
            continue
        said = (await document(served))["paths"][operation.path][operation.method.lower()]
        async with send(served, operation.method.lower(), operation.path, said, _role(operation.action)) as response:
            raw = await response.read()
        if response.status < 300:
            assert response.status == operation.status
            msgspec.json.decode(raw, type=operation.answer)
        else:
            assert msgspec.json.decode(raw, type=wire.Problem).status == response.status == 409


def _role(action: str) -> str:
    return next(role for role in ("operator", "admin", "custodian") if role in ACTIONS[action])


@pytest.mark.parametrize("action", sorted({operation.action for operation in OPERATIONS}))
def test_every_action_of_a_route_is_somebodys(action: str) -> None:
    assert ACTIONS[action]
