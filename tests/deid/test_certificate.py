"""A certificate says counts and digests, never a value, and no byte of it can be changed unnoticed."""

from __future__ import annotations

import random
import re
import stat
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mover.deid import certificate as room
from mover.deid.certificate import Scope, build, encode, for_one, human_check, sign, verify
from mover.errors import RequestInvalid
from mover.model.certificate import Anonymity, Certificate, FileRecord, Inventory, OutputFile
from mover.model.deid import Approval, DicomRules
from mover.model.policy import DeidPolicy
from mover.model.slides import Decision
from mover.signing import load_key, new_key

CLEAN = b"clean bytes"


def record(number: str, kind: str = "slide") -> FileRecord:
    output = OutputFile(f"{number}/{number}.svs", blake3(CLEAN).hexdigest(), len(CLEAN))
    return FileRecord(
        number=number, kind=kind, format="aperio-svs", outputs=(output,), removed={"drop X": 12}, kept=30,  # type: ignore[arg-type]
        strings_removed=20, methods=("literals searched",), verifier="v1", looked={"strings": 20}, proof={"tiles": 9},
    )  # fmt: skip


def certificate(*numbers: str) -> Certificate:
    approval = Approval("dicom.retain_device", "Dr. Board", "2026-01-31", "calibration study")
    profile = DeidPolicy(dicom=DicomRules(retain_device=True), approvals=(approval,), basis="none")
    scope = Scope(
        made_at="2026-11-22T04:00:00Z", role="operator", profile=profile, profile_text_blake3="ab" * 32,
        dicom_table="2026c", fences=("no network",),
        inventory=Inventory(3, 2, {"format-unsupported": 1}, {}, {"slide": {"deidentified": 2}}, 100, 90),
        files=tuple(record(number) for number in numbers), anonymity=(Anonymity("cases", ("age", "sex"), 12, 3),),
        source_digests=("cd" * 32,), previous="", crosswalk="vault",
    )  # fmt: skip
    return build(scope, room.this_tool())


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("keys") / "key"
    new_key(path)
    return encode(sign(certificate("AAA", "BBB"), load_key(path)))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for number in ("AAA", "BBB"):
        (tmp_path / number).mkdir()
        (tmp_path / number / f"{number}.svs").write_bytes(CLEAN)
    return tmp_path


def test_a_certificate_as_signed_is_valid_and_its_outputs_are_hashed_again(signed: bytes, out: Path) -> None:
    checked = verify(signed, folder=out)
    assert checked.problems == ()
    assert (checked.numbers, checked.files_checked) == (2, 2)


def test_any_changed_byte_is_noticed_and_its_place_is_named(signed: bytes) -> None:
    """Not only the values: a space more or less is no certificate of ours either."""
    drawn = random.Random(4)
    for _ in range(300):
        at = drawn.randrange(len(signed))
        changed = bytearray(signed)
        changed[at] = (changed[at] + drawn.randrange(1, 256)) % 256
        assert verify(bytes(changed)).problems, at
    assert verify(signed[:-1]).problems and verify(signed + b"\n").problems and verify(b"").problems


def test_what_was_changed_is_named_by_its_part(signed: bytes) -> None:
    assert "inventory: changed since signing" in verify(signed.replace(b'"published": 2', b'"published": 3')).problems
    one = signed.replace(b'"number": "BBB",\n    "options"', b'"number": "BBC",\n    "options"')
    assert one != signed
    assert any("file 2 (BBC): changed" in problem for problem in verify(one).problems)


def test_changing_a_part_and_its_digest_breaks_the_signature(signed: bytes) -> None:
    """What a forger without the key would do."""
    told = msgspec.json.decode(signed, type=room.SignedCertificate)
    forged = msgspec.structs.replace(told.certificate, role="somebody else")
    resealed = msgspec.structs.replace(told, certificate=forged, parts=room.parts_of(forged))
    problems = verify(encode(resealed)).problems
    assert len(problems) == 1 and problems[0].startswith("signature: does not fit")


def test_another_key_is_noticed_by_whoever_knows_the_right_one(signed: bytes, tmp_path: Path) -> None:
    fingerprint = verify(signed).fingerprint
    new_key(tmp_path / "other")
    forged = encode(sign(certificate("AAA", "BBB"), load_key(tmp_path / "other")))
    assert verify(forged).problems == ()  # it carries its own key; only the fingerprint tells
    assert verify(signed, trusted=[fingerprint]).trusted
    assert "not the one you trust" in verify(forged, trusted=[fingerprint]).problems[0]


def test_an_output_that_is_another_or_gone_is_named_by_its_neutral_name(signed: bytes, out: Path) -> None:
    (out / "AAA" / "AAA.svs").write_bytes(b"other bytes")
    (out / "BBB" / "BBB.svs").unlink()
    assert verify(signed, folder=out).problems == (
        "AAA/AAA.svs: not the bytes that were certified", "BBB/BBB.svs: is not there"
    )  # fmt: skip


def test_long_numbers_and_digests_stand_in_groups_so_that_no_zip_code_is_found_by_chance() -> None:
    """A search of side outputs for identifiers of five digits would stumble over one digest in a few hundred."""
    told = msgspec.structs.replace(certificate("AAA"), made_at="")
    assert told.files[0].outputs[0].blake3.replace(" ", "") == blake3(CLEAN).hexdigest()
    assert not re.search(rb"[0-9]{5}", room.canonical(told))
    signed = sign(told, Ed25519PrivateKey.generate())
    assert not any(re.search("[0-9a-f]{5}", digest) for digest in signed.parts.values())


def test_files_that_nobody_certified_are_counted(signed: bytes, out: Path) -> None:
    assert verify(signed, folder=out).strangers == 0
    (out / "AAA" / "late.svs").write_bytes(b"who put it here?")
    (out / "link").symlink_to(out / "AAA")
    checked = verify(signed, folder=out)
    assert (checked.problems, checked.strangers) == ((), 2)


def test_it_repeats_basis_options_and_approvals_and_says_what_remains(signed: bytes) -> None:
    told = msgspec.json.decode(signed, type=room.SignedCertificate).certificate
    assert told.profile.basis == "none"
    assert told.profile.options["dicom.retain_device"] is True
    assert told.profile.options["dicom.dates"] == "shift"
    assert [(one.option, one.by) for one in told.profile.approvals] == [("dicom.retain_device", "Dr. Board")]
    assert any("Tissue itself" in risk for risk in told.residual_risk)
    assert told.anonymity[0].smallest == 3


def test_the_certificate_of_one_slide_says_nothing_of_its_neighbours() -> None:
    one = for_one(certificate("AAA", "BBB"), "BBB")
    assert one.scope == "file" and [file.number for file in one.files] == ["BBB"]
    assert b"AAA" not in room.canonical(one)
    with pytest.raises(RequestInvalid):
        for_one(one, "AAA")


def test_the_bound_of_a_human_check_is_three_in_n() -> None:
    assert human_check(300, 0).upper_bound_95 == 0.01
    assert human_check(0, 0).upper_bound_95 == 1.0
    assert human_check(2, 0).upper_bound_95 == 1.0
    assert human_check(100, 2).upper_bound_95 > 0.02
    with pytest.raises(RequestInvalid):
        human_check(1, 2)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_bound_is_a_share_and_never_below_what_was_seen(looked_at: int, not_clean: int) -> None:
    if not_clean > looked_at:
        looked_at, not_clean = not_clean, looked_at
    bound = human_check(looked_at, not_clean).upper_bound_95
    assert 0 < bound <= 1 and (not looked_at or bound >= not_clean / looked_at - 1e-6)


def test_counts_are_of_actions_and_codes() -> None:
    decisions = [
        Decision("page 1 tag 270", "drop", "X", "not listed", "Aaaa", times=3),
        Decision("page 2 tag 270", "drop", "X", "not listed", "9999"),
        Decision("page 1 tag 256", "keep", "K", "structure", ""),
    ]
    assert room.removed_counts(decisions) == ({"drop X": 4}, 1)


def test_a_key_is_private_new_and_refused_when_others_may_read_it(tmp_path: Path) -> None:
    fingerprint = new_key(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert len(fingerprint.replace(" ", "")) == 40
    with pytest.raises(RequestInvalid):
        new_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(RequestInvalid):
        load_key(tmp_path / "key")


def test_what_is_no_certificate_is_said_to_be_none_whatever_it_is() -> None:
    drawn = random.Random(7)
    for size in (0, 1, 40, 4000):
        assert verify(drawn.randbytes(size)).problems[0].startswith("not a certificate")
    assert verify(b'{"certificate": {}}').problems[0].startswith("not a certificate")
