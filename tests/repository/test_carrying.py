"""What is carried from pack to pack is what it says it is."""

from __future__ import annotations

import hashlib

import pytest

from mover.errors import RepositoryDamaged
from mover.repository import compression
from mover.repository.carrying import open_payload
from mover.repository.crypto import new_master_key

KEY = new_master_key()


def test_a_blob_whose_content_is_another_is_not_carried_although_its_seal_holds() -> None:
    """A writer with the key and a fault in its memory: a seal proves who sealed, not what."""
    right, wrong = b"step 1\n" * 100, b"step 2\n" * 100
    blob_id = hashlib.sha256(right).digest()
    packed = compression.squeeze_document(right)

    assert open_payload(KEY, KEY.seal(right), blob_id, plain_length=0) == right
    assert open_payload(KEY, KEY.seal(packed), blob_id, plain_length=len(right)) == packed
    for sealed, plain_length in ((KEY.seal(wrong), 0), (KEY.seal(packed), len(right) - 1), (KEY.seal(packed), 0)):
        with pytest.raises(RepositoryDamaged):
            open_payload(KEY, sealed, blob_id, plain_length=plain_length)
