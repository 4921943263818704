"""What a certificate of de-identification says (design: deidentification 4).

Counts, digests, numbers and the words of our own rules: never a value that was removed, never a name of the source.
A certificate is made of parts, and the signature covers the digest of each, so that whoever changes one is told which.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mover.model.deid import Approval, Basis

FORM = "mover-deid-certificate/1"

# In a certificate, numbers of five digits and more stand in groups of three ("63 121"), digests in groups of four. Five
# digits are a ZIP code: whoever searches a certificate for identifiers shall find none by chance.
Number = int | str


class Tool(Struct, frozen=True, forbid_unknown_fields=True):
    """What did it: `code_blake3` is the digest of the program's own source files."""

    name: str
    version: str
    code_blake3: str
    python: str
    # fences of the parsing child that stood on this machine
    fences: tuple[str, ...] = ()


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """By which rules: `blake3` is of the profile's values, `text_blake3` of the file that said them."""

    name: str
    version: str
    blake3: str
    text_blake3: str
    dicom_table: str
    basis: Basis
    determination: str
    options: dict[str, str | int | bool]
    approvals: tuple[Approval, ...]


class Inventory(Struct, frozen=True, forbid_unknown_fields=True):
    """Files that came in, and what became of them. `quarantined` and `dropped` count by reason code."""

    files: int
    published: int
    quarantined: dict[str, int]
    dropped: dict[str, int]
    by_kind: dict[str, dict[str, int]]
    source_bytes: Number
    output_bytes: Number


class OutputFile(Struct, frozen=True, forbid_unknown_fields=True):
    """`name` is relative to the output folder and neutral."""

    name: str
    blake3: str
    size_bytes: Number


class FileRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """One subject: a slide with all its files, one DICOM object, one table. `removed` counts what was dropped or
    changed by PS3.15's code and the place's kind, `kept` what passed; `proof` and `looked` are the numbers of the
    utility proof and of the second look."""

    number: str
    kind: Literal["slide", "dicom", "table"]
    format: str
    outputs: tuple[OutputFile, ...]
    removed: dict[str, Number]
    kept: Number
    strings_removed: Number
    methods: tuple[str, ...]
    verifier: str
    looked: dict[str, Number]
    proof: dict[str, Number]
    options: tuple[str, ...] = ()


class Anonymity(Struct, frozen=True, forbid_unknown_fields=True):
    """k of one table over its declared quasi-identifiers: `smallest` rows at least share the values of any row that
    kept its own (0: no row did). `suppressed` rows lost theirs, being fewer than the profile's minimum."""

    table: str
    columns: tuple[str, ...]
    rows: int
    smallest: int
    suppressed: int = 0


class HumanCheck(Struct, frozen=True, forbid_unknown_fields=True):
    """How many outputs people looked at, and how many of these were not clean. With none found among n, the true
    share is below 3/n with 95 % certainty."""

    looked_at: int
    not_clean: int
    upper_bound_95: float
    by: str = ""


class ChainHead(Struct, frozen=True, forbid_unknown_fields=True):
    """Where one chain of the audit record ended when the certificate was issued: whoever holds the export finds it."""

    records: Number
    head: str


class Custody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`sources_blake3` is over the sorted digests of all sources (empty where only a keyed form of them is kept),
    `outputs_blake3` over names and digests of all outputs; `previous` is the digest of the certificate made before
    with the same crosswalk; `audit` the chains of custody of a batch."""

    sources_blake3: str
    outputs_blake3: str
    previous: str
    crosswalk: str
    reidentification: str
    audit: tuple[ChainHead, ...] = ()


class Certificate(Struct, frozen=True, forbid_unknown_fields=True):
    form: str
    made_at: str
    scope: Literal["batch", "file"]
    role: str
    tool: Tool
    profile: Profile
    inventory: Inventory
    files: tuple[FileRecord, ...]
    anonymity: tuple[Anonymity, ...]
    human_check: HumanCheck
    residual_risk: tuple[str, ...]
    custody: Custody


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """`value` signs the canonical form of `parts`; `fingerprint` is the BLAKE3 of the public key."""

    algorithm: Literal["Ed25519"]
    public_key: str
    fingerprint: str
    value: str


class SignedCertificate(Struct, frozen=True, forbid_unknown_fields=True):
    certificate: Certificate
    # part -> BLAKE3 of its canonical JSON; the parts are the certificate's fields and each of its files
    parts: dict[str, str]
    signature: Signature
