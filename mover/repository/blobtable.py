"""Where each blob lies, for millions of blobs: a hash table over flat memory.

A dictionary of ids takes 180 bytes a blob in three objects, and holds on to the memory around each of them. Here an id
takes its 32 bytes, its place 16, and its slots 6 to 12: open addressing with linear probing (Knuth, The Art of
Computer Programming 3, 6.4, algorithm L), at most two thirds full. Nothing is ever taken out.
"""

from __future__ import annotations

from array import array

ID_BYTES = 32
_LEAST_SLOTS = 1 << 10
_U64 = (1 << 64) - 1


class BlobTable:
    """From an id to a number of at most 128 bits. One thread at a time may add; any may ask meanwhile: an entry is
    whole before a slot names it, and a larger set of slots takes the place of the old one at once."""

    def __init__(self) -> None:
        self._ids = bytearray()
        self._places = array("Q")
        self._slots = array("I", bytes(4 * _LEAST_SLOTS))

    def __len__(self) -> int:
        return len(self._places) // 2

    def __contains__(self, blob_id: bytes) -> bool:
        return self._find(blob_id)[2] != 0

    def get(self, blob_id: bytes) -> int | None:
        found = self._find(blob_id)[2]
        return self._place(found) if found else None

    def setdefault(self, blob_id: bytes, place: int) -> int:
        """The place that is known, which is now this one where there was none."""
        slots, slot, found = self._find(blob_id)
        if found:
            return self._place(found)
        self._ids[ID_BYTES * len(self) :] = blob_id
        self._places.extend(array("Q", (place >> 64, place & _U64)))
        slots[slot] = len(self)
        if 3 * len(self) > 2 * len(slots):
            self._grow()
        return place

    def _place(self, entry: int) -> int:
        return self._places[2 * entry - 2] << 64 | self._places[2 * entry - 1]

    def _find(self, blob_id: bytes) -> tuple[array[int], int, int]:
        """Where its entry is named, or would be, and the entry or 0: read once, since somebody may add meanwhile.
        Python's hash has a secret of this process: nobody makes a repository whose ids all meet in one slot."""
        slots = self._slots
        last = len(slots) - 1
        slot = hash(blob_id) & last
        while entry := slots[slot]:
            if self._ids[ID_BYTES * entry - ID_BYTES : ID_BYTES * entry] == blob_id:
                break
            slot = (slot + 1) & last
        return slots, slot, entry

    def _grow(self) -> None:
        slots = array("I", bytes(8 * len(self._slots)))
        last = len(slots) - 1
        for entry in range(1, len(self) + 1):
            slot = hash(bytes(self._ids[ID_BYTES * entry - ID_BYTES : ID_BYTES * entry])) & last
            while slots[slot]:
                slot = (slot + 1) & last
            slots[slot] = entry
        self._slots = slots
