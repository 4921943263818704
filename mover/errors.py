"""The error tree.

An error answers four questions: what, where, may it be tried again, what can a person do. Those are
fields, not prose. The class carries a stable code, an exit status, an HTTP status and a retry answer;
`docs/errors.md` is made from them.

One entry's failure in a mass move is a *value* (`Problem`); an operation's own failure is raised.
No identifier ever enters a message, a hint or a field here: ids, numbers, digests and tier names only.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Literal

Retry = Literal["never", "later", "elsewhere"]

_REGISTRY: dict[str, type[MoverError]] = {}


class MoverError(Exception):
    """Base of everything we raise on purpose.

    `what` is one sentence; `where` names the place by our own ids (tier, run, policy file and line);
    `details` is for lists a person needs whole, such as every offender of a refused request.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    retry: ClassVar[Retry] = "never"
    hint: ClassVar[str] = "Look at the daemon's log for the request id."

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str | None = None,
        details: Iterable[Mapping[str, object]] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.advice = hint or self.hint
        self.details = [dict(one) for one in details]

    def __init_subclass__(cls) -> None:
        _REGISTRY.setdefault(cls.code, cls)  # a narrower class of the same code is told as the first

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        return f"{self.what}{place} ({self.code}; retry: {self.retry}). {self.advice}"


def by_code(code: str) -> type[MoverError]:
    """The class of a stable code; clients rebuild an error from problem+json with it."""
    return _REGISTRY.get(code, MoverError)


def all_errors() -> list[type[MoverError]]:
    return [_REGISTRY[code] for code in sorted(_REGISTRY)]


# --- configuration: the person who declares intent can mend it -------------------------------------


class ConfigError(MoverError):
    code, status, exit_status = "config", 422, 2
    hint = "Mend the named line and run the command again."


class SettingsInvalid(ConfigError):
    code = "settings-invalid"


class PolicyInvalid(ConfigError):
    """`where` is file:line:column."""

    code = "policy-invalid"


class ExpressionInvalid(ConfigError):
    """A cohort expression that cannot be understood; `where` is the character position."""

    code = "expression-invalid"


# --- requests: the caller can mend it ----------------------------------------------------------------


class RequestError(MoverError):
    code, status, exit_status = "request", 400, 3
    hint = "Mend the request and send it again."


class RequestInvalid(RequestError):
    code, status = "request-invalid", 422


class BodyTooLarge(RequestError):
    code, status = "body-too-large", 413
    hint = "Send less at once; the limit stands in the daemon's settings."


class MediaTypeUnknown(RequestError):
    code, status = "media-type-unknown", 415
    hint = "Send `Content-Type: application/json`."


class MethodNotAllowed(RequestError):
    code, status = "method-not-allowed", 405
    hint = "See /openapi.json for what this path can do."


class NotFound(RequestError):
    """Also the answer for what exists but may not be seen."""

    code, status = "not-found", 404
    hint = "Check the id and the project of your token."


class Conflict(RequestError):
    code, status = "conflict", 409
    hint = "Read the current state and decide again."


class ChangesUnknown(Conflict):
    """A scan of changes only was asked for, and not every change since the last complete scan was heard."""

    code = "changes-unknown"
    hint = "Scan the whole tier once (mover scan TIER), with `mover watch` running from before it on."


class RepositoryLocked(Conflict):
    """Another process holds a lock on the snapshot repository that stands against ours."""

    code, retry = "repository-locked", "later"
    hint = "Wait until the other process is done; a lock left by a dead process lapses after 30 minutes."


class RepositoryChanged(Conflict):
    """Not the snapshot repository that was here before: another one, or none. Nothing is written there."""

    code = "repository-changed"
    hint = "Bring back the repository that was here, or the tier's mount. `where` is its tier and prefix."


class NotProtected(Conflict):
    """Cleanup asked for before protection is proved; `details` lists what is unprotected."""

    code = "not-protected"
    hint = "Finish the run (POST /v1/runs/{id}/finish) and wait for `protected`."


class RunRefused(RequestError):
    """A run whose set is not whole; `details` lists every offender before the first byte moved."""

    code, status = "run-refused", 422
    hint = "Remove or mend the listed entries; the run was not started."


class TransferRefused(RequestError):
    """A transfer whose plan does not hold; `details` lists every offender, or the first of very many."""

    code, status = "transfer-refused", 422
    hint = "Remove or mend what is listed; nothing was moved."


class ReleaseRefused(Conflict):
    """Sources are not released, or what was released is not purged: a rule of deletion stands against it."""

    code = "release-refused"
    hint = "Nothing was removed. See the reason, mend it, and ask again."


class IllegalTransition(Conflict):
    code = "illegal-transition"


class StillWorking(RequestError):
    """A caller's own patience is over; the work goes on."""

    code, status, exit_status, retry = "still-working", 504, 11, "later"
    hint = "Ask again, or wait longer; nothing was given up."


class Unauthenticated(RequestError):
    code, status = "unauthenticated", 401
    hint = "Send `Authorization: Bearer TOKEN`; `mover init` printed where the token file is."


class Denied(RequestError):
    code, status = "denied", 403
    hint = "Ask for a token with the role this needs."


class CrossSite(Denied):
    """A change that a cookie would allow, and that no page of ours asked for."""

    code = "cross-site"
    hint = "Send the session's `csrf` (GET /v1/session) as Mover-CSRF, from a page of this daemon; or use a token."


class LimitExceeded(RequestError):
    code, status, retry = "limit-exceeded", 429, "later"
    hint = "Wait and try again, or ask for less at once."


# --- tiers: where bytes live -------------------------------------------------------------------------


class TierError(MoverError):
    code, status, exit_status = "tier", 502, 4
    hint = "Run `mover doctor`."


class EntryMissing(TierError):
    code, status = "entry-missing", 404
    hint = "The entry vanished or never arrived; walk the tier again."


class EntryExists(TierError):
    """A different object stands at a write-once name; nothing was overwritten (R8)."""

    code, status = "entry-exists", 409
    hint = "Nothing was overwritten. Find out who wrote the other bytes."


class TierUnavailable(TierError):
    """Unmounted, unreachable or not the tier it claims to be (identity differs)."""

    code, status, retry = "tier-unavailable", 503, "later"
    hint = "Mount or reconnect the tier and check its identity file; nothing was deleted."


class TierHung(TierUnavailable):
    """A network file system that does not answer at all. Its calls are refused at once until those that were left
    waiting have come back; other tiers go on."""

    code = "tier-hung"
    hint = "Look at the tier's server and its mount; nothing is lost, and work goes on by itself when it answers."


class TierFull(TierError):
    code, status, retry = "tier-full", 507, "later"
    hint = "Free space on the tier; what was half-written is removed on the next attempt."


class TierDenied(TierError):
    code = "tier-denied"
    hint = "Check the credentials and modes of the tier."


class EntryLocked(TierDenied):
    """The tier keeps the entry: its object lock has not run out, or it was made immutable. `details` has `until`."""

    code, status = "entry-locked", 423
    hint = "Nothing was removed. It may go when its lock has run out; asking again before that changes nothing."


class EntryRefused(TierError):
    """A link, a file of several names, a pipe or a device, which the policy or the engine does not move."""

    code, status = "entry-refused", 422
    hint = "Say under `keep` what to do with links; pipes, sockets and devices are never moved."


class MetadataUnsupported(TierError):
    """Metadata that was to be kept cannot be read or set; the entry was not moved without it."""

    code, status = "metadata-unsupported", 422
    hint = "Take the word out of `keep`, or use a target that can hold it."


class ZoneCrossing(TierError):
    """Bytes of an identified tier were sent towards a deidentified one without a verified recipe (D4)."""

    code, status = "zone-crossing", 403
    hint = "Only a de-identification recipe with a verifier may cross zones."


# --- integrity ---------------------------------------------------------------------------------------


class IntegrityError(MoverError):
    code, exit_status = "integrity", 5
    hint = "Nothing was published. Keep the evidence and look at the tier's hardware."


class DigestMismatch(IntegrityError):
    code, retry = "digest-mismatch", "elsewhere"


class ArchiveLost(IntegrityError):
    """Every copy of an archived file is gone or damaged; the offenders name all of them that a run needed."""

    code = "archive-lost"
    hint = "See `mover archive list`; bring the file back from the tier's own backup, or leave the slide out."


class ChangedWhileReading(IntegrityError):
    code, retry = "changed-while-reading", "later"
    hint = "Wait until the writer is done; the entry is tried again."


class ChangedSincePlan(IntegrityError):
    """The entry is no longer the one that the plan saw (size, time or inode)."""

    code, retry = "changed-since-plan", "later"
    hint = "Plan again: what was agreed on no longer stands there."


class ShortRead(IntegrityError):
    code, retry = "short-read", "later"


class RepositoryDamaged(IntegrityError):
    """A snapshot repository object does not decrypt, decode or hash to its name."""

    code = "repository-damaged"
    hint = "Run `mover snapshot check`; restore the damaged object from a second copy."


# --- identity: what is not understood never passes -----------------------------------------------------


class IdentityError(MoverError):
    """Never swallowed, never retried: leads to quarantine with `code` as the reason."""

    code, status, exit_status = "identity", 422, 6
    hint = "The pack waits in quarantine; a person decides."


class FormatUnknown(IdentityError):
    code = "format-unknown"


class FormatUnsupported(IdentityError):
    """Recognised by name and content, but no writer exists yet."""

    code = "format-unsupported"


class StructureInvalid(IdentityError):
    """Truncated, looping, overlapping or otherwise impossible structure."""

    code = "structure-invalid"


class PlaceUnknown(IdentityError):
    """A place where identity can hide, and no rule says what to do with it."""

    code = "place-unknown"


class IdentifierFoundLater(IdentityError):
    """A published slide holds a word that the patient's records brought later: it is withdrawn, for all projects."""

    code = "identifier-found-later"
    hint = "No new selection or run takes the slide. End the runs that hold it; its pack waits for a person."


class RedactionUnproven(IdentityError):
    """The independent second pass found something, or could not look."""

    code = "redaction-unproven"


class InstanceDropped(IdentityError):
    """A label or overview picture of a slide that stands in a file of its own: left out by rule, never published."""

    code = "instance-dropped"
    hint = "Nothing waits for anybody: pictures that show the slide's label never leave the identified zone."


class PackAmbiguous(IdentityError):
    """What was declared as one scan holds two: two patients, or two slides."""

    code = "pack-ambiguous"
    hint = "Give each scan a folder of its own and declare the batch again."


class RulesDiffer(IdentityError):
    """The scan was published under other rules than this project's profile; one scan has one slide (D19)."""

    code = "rules-differ"
    hint = "Let both projects use one profile, or have the slide made under the narrower one withdrawn first."


class VaultConflict(IdentityError):
    code = "vault-conflict"


class SubjectErased(IdentityError):
    """The scan, or the patient it names, was erased: it is not taken in a second time."""

    code = "subject-erased"
    hint = "Nothing is published of an erased subject. If the erasure was wrong, its custodian decides what comes next."


class TextReaderMissing(IdentityError):
    """A picture that may carry burned-in text, on an installation that cannot read pictures."""

    code = "text-reader-missing"
    hint = "Install onnxruntime and rapidocr-onnxruntime (Python below 3.13), then release what waits."


class SandboxFailed(IdentityError):
    """The parsing child crashed, hung or went over its limits."""

    code = "sandbox-failed"


# --- catalog, jobs, compute ----------------------------------------------------------------------------


class CatalogError(MoverError):
    code, exit_status = "catalog", 7
    hint = "Check that PostgreSQL runs and that `mover doctor` is content."


class CatalogUnavailable(CatalogError):
    code, status, retry = "catalog-unavailable", 503, "later"


class CatalogRefused(CatalogUnavailable):
    """The server answers, and does not let us in: by the password, role, database or address that the DSN has. A start
    fails by it, for waiting changes nothing; a daemon that works waits, as for any other, until somebody mends it."""

    code = "catalog-refused"
    hint = "Mend the DSN's file, or what the server knows of it; `mover doctor` tries it."


class CatalogUnsafe(CatalogError):
    """PostgreSQL would lose acknowledged commits (fsync or synchronous_commit off): we refuse to run."""

    code, status = "catalog-unsafe", 503
    hint = "Set fsync=on, full_page_writes=on and synchronous_commit=on."


class SchemaMismatch(CatalogError):
    code, status = "schema-mismatch", 503


class MigrationFailed(CatalogError):
    """A migration did not go through; it left nothing, and `hint` says the way back."""

    code, status = "migration-failed", 503


class NoRoom(CatalogError):
    """The disk has no room for a copy of the database; nothing was begun, or what was begun was removed."""

    code, status = "no-room", 507
    hint = "Free space where the state directory stands, and try again."


class ProofMissing(CatalogError):
    """The database refused a state without its proof (D6)."""

    code = "proof-missing"


class DumpOverdue(CatalogError):
    """No verified dump of vault and catalog is young enough, so no new slide is released (R15)."""

    code, status, retry = "dump-overdue", 503, "later"
    hint = "`mover vault dumps` says why. Release goes on by itself once a dump is verified."


class JobError(MoverError):
    code, status, exit_status = "job", 409, 8
    hint = "The job is tried again by itself; look at `mover doctor` if it repeats."


class LeaseLost(JobError):
    """Another worker took over; what this one did is discarded by its fencing number."""

    code = "lease-lost"


class Stopping(JobError):
    """The daemon was told to end while work waited for its turn; the work comes again."""

    code, retry = "stopping", "later"


class WorkerLost(JobError):
    """A worker process ended in the middle of its work (killed, out of memory)."""

    code, retry = "worker-lost", "later"


class AttemptsExhausted(JobError):
    code = "attempts-exhausted"


class HookFailed(JobError):
    """A cleanup hook of the site did not succeed, or is not to be trusted. What it stands before was not done."""

    code = "hook-failed"
    hint = "`mover run show RUN` has its last words. Mend it, then `mover run clean RUN`."


class ComputeError(MoverError):
    code, status, exit_status = "compute", 502, 9


class ServiceUnreachable(MoverError):
    """The SDK could not reach the daemon."""

    code, status, exit_status, retry = "service-unreachable", 503, 10, "later"
    hint = "Is the daemon running? `make serve` or `systemctl status mover`."


class ProviderUnavailable(MoverError):
    """The site's identity provider does not answer, or not as one does."""

    code, status, exit_status, retry = "provider-unavailable", 502, 10, "later"
    hint = "Try again, or sign in by a password or a token; `access.oidc` in the settings says who is asked."


class ReceiverUnavailable(MoverError):
    """A receiver of alarms (webhook, mail server) cannot be reached, or did not take what it was sent."""

    code, status, exit_status, retry = "receiver-unavailable", 502, 10, "later"
    hint = "Look at `receivers` in mover.yaml, then `mover alarm test RECEIVER`; alarms are sent again by themselves."


_FULL: Final = "Free space there, then run the same command again: what was finished stays."
_DENIED: Final = "Look at owner and modes of file and folder, and for a read-only mount; then run the command again."
_FAILED: Final = "Is the folder there, and its disk well (dmesg)? Then run the same command again."


def tier_error(error: OSError, *, of: str = "the output") -> MoverError:
    """The message names the error and what kind of file it is about, never the path."""
    name = errno.errorcode.get(error.errno or 0, "unknown")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TierFull(f"the file system of {of} is full ({name})", hint=_FULL)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TierDenied(f"{of} may not be read or written here ({name})", hint=_DENIED)
    return TierError(f"reading or writing {of} failed ({name})", hint=_FAILED)
