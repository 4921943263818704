"""What stores and their libraries say, in our words: one table each for obstore and for plain HTTP answers.

Their messages hold keys and URLs, so no text of theirs goes on: only the class that we choose.
"""

from __future__ import annotations

import re

from obstore import exceptions as s3

from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryMissing,
    MoverError,
    RequestInvalid,
    ShortRead,
    TierDenied,
    TierFull,
    TierUnavailable,
)

OBSTORE_ERRORS = (s3.BaseError, OSError, NotImplementedError)  # "not found" comes as FileNotFoundError
REFUSED = (401, 403)
AGAIN = (408, 429, 500, 502, 503, 504)
# a 400 that says the body did not arrive as it was sent, or not at all (S3 API, error codes)
SPOILED = frozenset(
    {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "IncompleteBody", "RequestTimeout"}
)
# a 400 or 403 that new keys may mend
STALE_KEYS = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"})
FULL = frozenset({"QuotaExceeded", "InsufficientStorage", "EntityTooLarge", "XMinioStorageFull"})
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")


def error_code(body: bytes) -> str:
    """The S3 error code of an answer's body, or ""."""
    found = _CODE.search(body)
    return found[1].decode() if found else ""


def of_obstore(error: Exception, what: str, *, tier: str) -> MoverError:
    match error:
        case s3.NotFoundError() | FileNotFoundError():
            return EntryMissing(f"{what}: no such object", where=tier)
        case s3.AlreadyExistsError():
            return EntryExists("the name is taken", where=tier)
        case s3.PreconditionError():
            return ChangedWhileReading("the object is no longer the one that was opened", where=tier)
        case s3.PermissionDeniedError() | s3.UnauthenticatedError():
            return TierDenied(f"{what}: the store refused the credentials", where=tier)
        case s3.InvalidPathError():
            return RequestInvalid("a key that the store does not take", where=tier)
    return TierUnavailable(f"{what}: the store answered with an error or not at all", where=tier)


def of_answer(status: int, code: str, what: str, *, tier: str) -> MoverError:
    """Of an HTTP answer that is no success, after all resending."""
    if status == 404:
        return EntryMissing(f"{what}: no such object or upload", where=tier)
    if status == 412 or code == "PreconditionFailed":
        return ChangedWhileReading("the object is no longer the one that was opened", where=tier)
    if status == 416:
        return ShortRead("the object does not hold the bytes asked for", where=tier)
    if status == 507 or code in FULL:
        return TierFull(f"{what}: the store takes no more", where=tier)
    if code in SPOILED:
        return DigestMismatch(f"{what}: the bytes did not arrive as they were sent", where=tier)
    if status in REFUSED or code in STALE_KEYS:
        return TierDenied(f"{what}: the store refused the credentials", where=tier)
    if 400 <= status < 500 and status not in AGAIN or status == 501:
        return TierDenied(
            f"{what}: the store does not do this", where=tier, hint="Ask `mover tier list` what it can."
        )
    return TierUnavailable(f"{what}: the store answered with an error or not at all", where=tier)
