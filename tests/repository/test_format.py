"""The small pieces of the format, against laws and against hostile input."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.errors import RepositoryDamaged
from mover.repository import compression, packs, tree
from mover.repository.crypto import KeyFile, Sealer, new_master_key, unwrap_key
from mover.repository.facts import ProtectedFiles
from mover.repository.packs import PackBuilder, PackedBlob
from mover.repository.polynomial import DEGREE, irreducible, new_polynomial
from mover.repository.tree import Node

NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name
)
TIMES = st.integers(min_value=-62_135_596_800 * 10**9, max_value=253_402_300_799 * 10**9)
MASTER = new_master_key()


@given(NAMES)
def test_any_name_survives_quoting(name: bytes) -> None:
    """Names are bytes; the format's quoting is what carries those that are not UTF-8."""
    assert tree.unquote(tree.quote(name)) == name


@given(TIMES)
def test_any_time_survives_to_the_nanosecond(time_ns: int) -> None:
    """A restored time that differs by one nanosecond makes the next snapshot read the file again."""
    assert tree.parse_time(tree.format_time(time_ns)) == time_ns


@given(st.lists(NAMES, unique=True, max_size=8), TIMES, st.binary(max_size=20), st.integers(0, 0o7777))
def test_any_tree_survives_its_encoding(names: list[bytes], time_ns: int, target: bytes, mode: int) -> None:
    """Decoding is the inverse of encoding, for every field that travels."""
    nodes = [
        Node(
            name=name,
            type="file",
            mode=mode,
            mtime_ns=time_ns,
            ctime_ns=time_ns,
            atime_ns=time_ns,
            uid=place,
            size=place,
            target=target,
            content=(bytes([place]) * 32,),
        )
        for place, name in enumerate(sorted(names))
    ]

    assert tree.decode_tree(tree.encode_tree([tree.encode_node(node) for node in nodes])) == nodes


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../etc/cron.d/x", "a\\x00b", "\\q", "\\u12"])
def test_a_name_that_could_leave_its_folder_is_damage(name: str) -> None:
    """Whoever holds a key can write a tree; it must not write outside of the restore's target."""
    document = tree.encode_tree([tree.encode_node(Node(b"NAME", "file", 0, 0, 0, content=()))])
    hostile = document.replace(b"NAME", name.replace("\\", "\\\\").encode())

    with pytest.raises(RepositoryDamaged):
        tree.decode_tree(hostile)


def test_names_out_of_order_or_doubled_are_damage() -> None:
    """A doubled name would restore two files into one."""
    one, two = (tree.encode_node(Node(name, "file", 0, 0, 0, content=())) for name in (b"a", b"b"))

    for wrong in ([two, one], [one, one]):
        with pytest.raises(RepositoryDamaged):
            tree.decode_tree(tree.encode_tree(wrong))


@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_one_flipped_bit_of_a_sealed_object_never_opens(plain: bytes, place: int) -> None:
    """IV, ciphertext and MAC are all covered; nothing is decrypted before the MAC holds."""
    sealed = MASTER.seal(plain)
    assert MASTER.open(sealed) == plain

    sealed[place % len(sealed)] ^= 1 << place % 8

    with pytest.raises(RepositoryDamaged):
        MASTER.open(sealed)


@given(
    st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=33, max_size=90), st.booleans()),
        min_size=1,
        max_size=9,
    )
)
def test_a_packs_header_tells_what_was_put_in(blobs: list[tuple[bytes, bytes, bool]]) -> None:
    """An index can be rebuilt from packs alone, and the expected size is the real one."""
    builder = PackBuilder("data")
    for blob_id, sealed, compressed in blobs:
        builder.add(blob_id, sealed, plain_length=1000 if compressed else 0)

    pack = builder.finish(MASTER)

    content = b"".join(pack.parts)
    assert packs.read_header(content, MASTER) == list(pack.blobs)
    assert len(content) == pack.size_bytes == packs.expected_size(list(pack.blobs))
    assert [content[b.offset : b.offset + b.length] for b in pack.blobs] == [sealed for _, sealed, _ in blobs]


def test_what_outgrows_a_packs_buffer_and_what_was_absorbed_opens_again() -> None:
    """A folder of very many names is one blob, however long; the last packs of a snapshot become one."""
    sealer, builders = Sealer(MASTER), [PackBuilder("tree", packs.pack_memory(4096)) for _ in range(2)]
    contents = {hashlib.sha256(content).digest(): content for content in (b"small", bytes(9_000), bytes(200_000))}
    for number, (blob_id, content) in enumerate(contents.items()):
        builders[number % 2].seal(blob_id, content, plain_length=0, sealer=sealer)

    builders[0].absorb(builders[1])
    pack = builders[0].finish(MASTER)

    (stored,) = pack.parts
    assert hashlib.sha256(stored).hexdigest() == pack.pack_id
    opened = {b.blob_id: MASTER.open(stored[b.offset : b.offset + b.length]) for b in packs.read_header(stored, MASTER)}
    assert opened == contents


@pytest.mark.parametrize("header", [b"\x04" + bytes(36), b"\0" * 36, b"\x02" * 40])
def test_a_header_that_is_cut_or_unknown_is_damage(header: bytes) -> None:
    """Authenticated is not the same as sensible: another writer may be broken."""
    with pytest.raises(RepositoryDamaged):
        packs.decode_header(header)


def test_a_blob_that_unpacks_to_more_than_its_index_says_is_refused_before_memory_is_spent() -> None:
    """A zstd bomb: 64 MiB of zeros in less than 10 KB."""
    bomb = compression.squeeze_document(bytes(64 << 20))
    assert len(bomb) < 10_000

    with pytest.raises(RepositoryDamaged):
        compression.unsqueeze(bomb, plain_length=1 << 20)
    with pytest.raises(RepositoryDamaged):
        compression.unsqueeze_document(bomb, max_bytes=1 << 20)


def test_what_does_not_shrink_is_stored_as_it_is_and_what_does_is_not() -> None:
    """Checkpoints and JPEG tiles would cost compressing at every snapshot and unpacking at every restore."""
    import random

    noise = random.Random(1).randbytes(1 << 20)

    assert compression.squeeze(noise) is None
    assert compression.squeeze(b"header " * 1000 + noise) is None
    packed = compression.squeeze(b"step 1 loss 0.5\n" * 5000)
    assert packed is not None and compression.unsqueeze(packed, plain_length=80_000) == b"step 1 loss 0.5\n" * 5000


@pytest.mark.parametrize("wrong", [{"N": 1 << 40}, {"N": 3}, {"p": 10_000}, {"r": 0}, {"kdf": "plain"}])
def test_a_key_file_that_asks_for_the_impossible_is_refused_before_deriving(wrong: dict[str, object]) -> None:
    """Key files are read before anything is authenticated."""
    import msgspec

    words: dict[str, object] = {"created": "", "username": "", "hostname": "", "kdf": "scrypt"}
    words |= {"N": 1024, "r": 8, "p": 1, "salt": "AA==", "data": "AA=="} | wrong
    content = msgspec.json.encode(msgspec.convert(words, KeyFile))

    with pytest.raises(RepositoryDamaged):
        unwrap_key(content, b"pw")


def test_a_new_polynomial_is_irreducible_and_products_are_not() -> None:
    """Stock restic refuses a config whose polynomial is reducible."""
    assert irreducible(new_polynomial())
    assert irreducible(0x25B468838DCB75)  # the example of the public format document
    assert not irreducible(1 << DEGREE | 1)  # x + 1 divides it
    assert not irreducible(_times(0b111, 1 << (DEGREE - 2) | 0b11))


def _times(one: int, other: int) -> int:
    product = 0
    while other:
        product ^= one if other & 1 else 0
        one, other = one << 1, other >> 1
    return product


def test_a_document_with_an_unknown_encoding_is_damage() -> None:
    """Encoding bytes beyond 2 may come one day; guessing would be worse than refusing."""
    from mover.repository.files import _decode_document

    assert _decode_document(b"{}") == b"{}"
    with pytest.raises(RepositoryDamaged):
        _decode_document(b"\x03abc")


def test_packed_blob_knows_its_kind() -> None:
    """Trees and data never mix in the header's numbers."""
    blobs = [PackedBlob(bytes(32), kind, 0, 40, plain) for kind in ("data", "tree") for plain in (0, 9)]

    numbers = [packs.encode_header([blob])[0] for blob in blobs]

    assert numbers == [0, 2, 1, 3]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=12), st.integers(0, 1 << 40), TIMES), max_size=6))
def test_packed_files_are_the_files_in_the_order_of_their_raw_paths(files: list[tuple[bytes, int, int]]) -> None:
    """What a million files are told in: nothing is lost, and a name that is no text stays what it is."""
    plain = {b"/" + path.replace(b"\0", b""): (size, time_ns) for path, size, time_ns in files}
    digest = "ab" * 32
    packed = ProtectedFiles(
        [
            ProtectedFiles.pack(path, size_bytes=size, blake3=digest, mtime_ns=time_ns)
            for path, (size, time_ns) in plain.items()
        ]
    )
    seen = [(os.fsencode(one.path), one.size_bytes, one.blake3, one.mtime_ns) for one in packed]
    assert seen == [(path, size, digest, time_ns) for path, (size, time_ns) in sorted(plain.items())]
    assert list(packed[1:]) == list(packed)[1:] and packed == packed[:] and (packed != packed[1:] or not plain)
