"""One audit record as a FHIR AuditEvent (HL7 FHIR R4, 4.0.1), for a hospital's own audit repository.

What kind of event a record is stands in one table, in the codes of DICOM PS3.16 CID 400 and 401: the audit of images
speaks them. Nothing is added to what the record says, and it names nobody but its actor: subjects are ids. A resource's
`id` is the record's hash, so whoever gets one twice knows it; its place in the chain and the hash before it stand in
two extensions (docs/formats.md), and the body as it was hashed in `entity.detail`.
"""

from __future__ import annotations

from datetime import UTC
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from mover.decide.access import RESERVED_NAMES
from mover.decide.audit import Link

DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
ROLES: Final = "http://terminology.hl7.org/CodeSystem/object-role"
OBJECTS: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
SOURCES: Final = "http://terminology.hl7.org/CodeSystem/security-source-type"
# ours: names that nobody resolves
ACTION: Final = "urn:mover:audit:action"
CHAIN: Final = "urn:mover:audit:chain"
PREVIOUS: Final = "urn:mover:audit:previous"

Verb = Literal["C", "R", "U", "D", "E"]

_DISPLAYS: Final = {
    "110100": "Application Activity", "110101": "Audit Log Used", "110102": "Begin Transferring DICOM Instances",
    "110103": "DICOM Instances Accessed", "110104": "DICOM Instances Transferred", "110105": "DICOM Study Deleted",
    "110106": "Export", "110107": "Import", "110110": "Patient Record", "110112": "Query",
    "110113": "Security Alert", "110114": "User Authentication", "110122": "Login", "110123": "Logout",
    "110129": "Security Configuration", "110136": "Security Roles Changed",
    "110137": "User Security Attributes Changed",
    "110150": "Application",
}  # fmt: skip


class Kind(Struct, frozen=True):
    """`event` and `sub` are DICOM's codes, `role` is what the subject is to the event (object-role)."""

    event: str
    verb: Verb
    role: str = "4"  # a domain resource
    sub: str = ""


_JOB, _SECURITY, _REPORT, _USER = "20", "13", "3", "11"

# The first row that the action begins with. What is destroyed is told as deleted, who looks at data as access, what
# leaves the house as export, what comes in as import; rules and rights are security.
KINDS: Final[tuple[tuple[str, Kind], ...]] = (
    ("signed in", Kind("110114", "E", _USER, "110122")),
    ("signed out", Kind("110114", "E", _USER, "110123")),
    ("sign-ins refused", Kind("110114", "E", _USER, "110122")),
    ("sessions ended", Kind("110114", "E", _USER, "110123")),
    ("token", Kind("110113", "U", _SECURITY, "110137")),
    ("account", Kind("110113", "U", _USER, "110137")),
    ("password", Kind("110113", "U", _USER, "110137")),
    ("role", Kind("110113", "U", _USER, "110136")),
    ("policy:", Kind("110113", "U", _SECURITY, "110129")),
    ("protection", Kind("110113", "U", _SECURITY, "110129")),
    ("daemon reloaded", Kind("110113", "U", _SECURITY, "110129")),
    ("tier added", Kind("110113", "U", _SECURITY, "110129")),
    ("tier removed", Kind("110113", "U", _SECURITY, "110129")),
    ("repository key", Kind("110113", "U", _SECURITY, "110129")),
    ("locks", Kind("110113", "E", _SECURITY, "110129")),
    ("kept objects missing", Kind("110113", "E", _SECURITY)),
    ("hidden objects brought back", Kind("110113", "U", _SECURITY)),
    ("archived files were not", Kind("110113", "E", _SECURITY)),
    ("vault erased", Kind("110110", "D")),
    ("vault imported", Kind("110107", "C")),
    ("vault rows sealed anew", Kind("110113", "U", _SECURITY, "110129")),
    ("vault restored", Kind("110107", "U")),
    ("vault export refused", Kind("110113", "E", _SECURITY)),
    ("vault exported", Kind("110106", "R")),
    ("vault", Kind("110110", "R")),
    ("unseal", Kind("110110", "R")),
    ("tables listed", Kind("110103", "R")),
    ("names trusted", Kind("110110", "R")),
    ("audit restore", Kind("110113", "U", _SECURITY)),
    ("audit retirement", Kind("110113", "U", _SECURITY)),
    ("audit records retired", Kind("110105", "D")),
    ("audit", Kind("110101", "R", _REPORT)),
    ("answer read", Kind("110101", "R", _REPORT)),
    ("manifest read", Kind("110103", "R")),
    ("ledger read", Kind("110103", "R")),
    ("slide read", Kind("110103", "R")),
    ("snapshot read", Kind("110103", "R")),
    ("certificate issued", Kind("110106", "C", _REPORT)),
    ("dump removed", Kind("110105", "D")),
    ("dump", Kind("110106", "E")),
    ("slide removal", Kind("110105", "D")),
    ("slide removed", Kind("110105", "D")),
    ("slide remove", Kind("110105", "D")),
    ("slide", Kind("110110", "U")),
    ("splits judged", Kind("110100", "E", _JOB)),
    ("sources purged", Kind("110105", "D")),
    ("sources released", Kind("110105", "D")),
    ("sources brought back", Kind("110104", "U")),
    ("release purge", Kind("110105", "D", _JOB)),
    ("release", Kind("110104", "U", _JOB)),
    ("run clean", Kind("110105", "D", _JOB)),
    ("run", Kind("110104", "E", _JOB)),
    ("strays purged", Kind("110105", "D")),
    ("damaged content purged", Kind("110105", "D")),
    ("snapshots forgotten", Kind("110105", "D")),
    ("snapshots trashed", Kind("110105", "D")),
    ("snapshot restored", Kind("110104", "R")),
    ("snapshot", Kind("110104", "U")),
    ("restore", Kind("110104", "E", _JOB)),
    ("rebuild", Kind("110104", "E", _JOB)),
    ("transfer requested", Kind("110102", "E", _JOB)),
    ("transfer planned", Kind("110102", "E", _JOB)),
    ("transfer", Kind("110104", "E", _JOB)),
    ("archive", Kind("110104", "E", _JOB)),
    ("folder", Kind("110104", "E", _JOB)),
    ("batch declared", Kind("110107", "C", _JOB)),
    ("batch", Kind("110107", "E", _JOB)),
    ("pack", Kind("110107", "U")),
    ("adoption", Kind("110107", "E", _JOB)),
    ("records", Kind("110107", "C")),
    ("quarantine", Kind("110107", "U", _JOB)),
    ("cohort", Kind("110112", "E", "24")),
    ("scan", Kind("110100", "E", _JOB)),
    ("verification", Kind("110100", "E", _JOB)),
    ("entry repaired", Kind("110104", "U")),
    ("prune", Kind("110105", "D", _JOB)),
    ("keep", Kind("110104", "E", _JOB)),
    ("drill", Kind("110100", "E", _JOB)),
    ("sample", Kind("110100", "E", _JOB)),
    ("whole", Kind("110100", "E", _JOB)),
    ("copy", Kind("110104", "E", _JOB)),
    ("turn", Kind("110100", "E", _JOB)),
    ("tag", Kind("110110", "U")),
)
# a record of a later version, or of another program: told, and by no guess
OTHER: Final = Kind("110100", "E")
_FAILED = ("failed", "refused", "quarantined", "missing", "not adopted", "not protected", "not drilled", "not renewed")


@lru_cache(maxsize=1024)  # a million records have some hundred actions
def kind_of(action: str) -> Kind:
    return next((kind for words, kind in KINDS if action.startswith(words)), OTHER)


def outcome_of(action: str) -> str:
    """R4's audit-event-outcome: 0 it was done, 4 it was not. What is worse, no record says of itself."""
    return "4" if any(word in action for word in _FAILED) else "0"


def audit_event(link: Link, *, site: str) -> dict[str, Any]:
    """The resource, as FHIR's JSON has it. A body that is not one of ours is told as text, never left out."""
    body = _body(link)
    action = str(body.get("action", ""))
    kind, actor = kind_of(action), str(body.get("actor", "")) or "unknown"
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": link.hash.hex(),
        "extension": [
            {"url": CHAIN, "valueString": f"{link.project}/{link.node}/{link.seq}"},
            {"url": PREVIOUS, "valueString": link.prev.hex() or "first"},
        ],
        "type": _coding(DCM, kind.event),
        "subtype": [_coding(ACTION, " ".join(action.split()) or "unknown")],
        "action": kind.verb,
        "recorded": link.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "outcome": outcome_of(action),
        "agent": [_agent(actor)],
        "source": {
            "site": site, "observer": _named("node", link.node),
            "type": [{"system": SOURCES, "code": "4", "display": "Application Server"}],
        },
        "entity": [_entity(link, kind, body)],
    }  # fmt: skip
    if kind.sub:
        event["subtype"].insert(0, _coding(DCM, kind.sub))
    if reason := " ".join(str(body.get("reason", "")).split()):
        event["outcomeDesc"] = reason
    return event


def _body(link: Link) -> dict[str, Any]:
    try:
        return dict(msgspec.json.decode(link.body, type=dict[str, Any]))
    except (msgspec.DecodeError, msgspec.ValidationError):
        return {}


def _agent(actor: str) -> dict[str, Any]:
    """A person, or the program itself: who asked for what the program does is in the record of the asking."""
    agent = {"who": _named("actor", actor), "altId": actor, "requestor": actor not in RESERVED_NAMES}
    if actor in RESERVED_NAMES:
        agent["type"] = {"coding": [_coding(DCM, "110150")]}
    return agent


def _entity(link: Link, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
    subject = str(body.get("subject", "")) or link.project
    sort = "1" if kind.role == _USER else "2"
    return {
        "what": _named("subject", subject),
        "type": {"system": OBJECTS, "code": sort, "display": {"1": "Person", "2": "System Object"}[sort]},
        "role": {"system": ROLES, "code": kind.role},
        "detail": [
            {"type": name, "valueString": text}
            for name, text in (("body", link.body), ("request", str(body.get("request", ""))))
            if text
        ],
    }  # fmt: skip


def _named(what: str, value: str) -> dict[str, Any]:
    return {"identifier": {"system": f"urn:mover:{what}", "value": value}, "display": value}


def _coding(system: str, code: str) -> dict[str, str]:
    shown = _DISPLAYS.get(code) if system == DCM else None
    return {"system": system, "code": code} | ({"display": shown} if shown else {})
