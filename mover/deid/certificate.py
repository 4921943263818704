"""Certificates: built from values, signed with Ed25519, checked part by part.

`build` is a pure function, for the one-shot command and for batches alike. A certificate is written in one form only
(`encode`), so every byte of the file is either what the signature covers or shown to be foreign: `verify` names the
line of a byte that is not of the form, the part whose content was changed, and the output that is another.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover import signing
from mover.decide.profiles import is_placeholder
from mover.deid.durable import digest_of_file
from mover.errors import MoverError, RequestInvalid
from mover.model.certificate import (
    FORM,
    Anonymity,
    Certificate,
    Custody,
    FileRecord,
    HumanCheck,
    Inventory,
    Number,
    Profile,
    SignedCertificate,
    Tool,
)
from mover.model.policy import DeidPolicy
from mover.model.slides import Decision
from mover.sandbox import Protection
from mover.signing import SigningKey, canonical, grouped

PROBLEMS: Final = 100
_DIGEST: Final = re.compile("[0-9a-f]{64}")

RESIDUAL_RISK: Final = (
    "Tissue itself can identify: patients were recognised from slides alone with an F1 of 50 to 80 % where other "
    "slides of them were at hand (Ganz et al. 2024). No removal of metadata changes that; access to the slides has to "
    "be limited by agreement.",
    "Text burned into pictures is found by optical recognition, which misses 10 to 17 % of small text; classes that "
    "usually carry it are refused, and ultrasound is kept inside its declared regions only.",
    "A combination of remaining facts (age, sex, rare diagnosis, shifted dates) may single a person out; k says how "
    "far, over the columns that were declared quasi-identifiers.",
    "Whoever holds the crosswalk, or its key, can undo the replacement.",
)


class Scope(Struct, frozen=True, kw_only=True):
    """What a batch or a run knows when its certificate is made."""

    made_at: str
    role: str
    profile: DeidPolicy
    profile_text_blake3: str
    dicom_table: str
    fences: tuple[str, ...]
    inventory: Inventory
    files: tuple[FileRecord, ...]
    anonymity: tuple[Anonymity, ...]
    source_digests: tuple[str, ...]
    previous: str
    crosswalk: str
    human_check: HumanCheck = HumanCheck(0, 0, 1.0)


def removed_counts(decisions: Iterable[Decision]) -> tuple[dict[str, Number], int]:
    """How many values went, by action and PS3.15 code, and how many places stayed."""
    removed: dict[str, int] = {}
    kept = 0
    for decision in decisions:
        if decision.action == "keep":
            kept += decision.times
        else:
            word = f"{decision.action} {decision.code}"
            removed[word] = removed.get(word, 0) + decision.times
    return {word: removed[word] for word in sorted(removed)}, kept


def human_check(looked_at: int, not_clean: int, *, by: str = "") -> HumanCheck:
    """The rule of three: nothing found among n leaves the true share below 3/n with 95 % certainty. With findings, the
    bound is the normal one on top of it, and never below what was seen."""
    if looked_at < 0 or not 0 <= not_clean <= looked_at:
        raise RequestInvalid("fewer outputs were looked at than were not clean")
    if looked_at == 0:
        return HumanCheck(0, 0, 1.0, by)
    share = not_clean / looked_at
    bound = 3 / looked_at if not not_clean else share + 1.645 * (share * (1 - share) / looked_at) ** 0.5 + 1 / looked_at
    return HumanCheck(looked_at, not_clean, round(min(1.0, bound), 6), by)


def build(scope: Scope, tool: Tool) -> Certificate:
    """What may be said of a batch or run; nothing of it says a value or a source's name."""
    certificate = Certificate(
        form=FORM,
        made_at=scope.made_at,
        scope="batch",
        role=scope.role,
        tool=tool,
        profile=_profile(scope),
        inventory=scope.inventory,
        files=scope.files,
        anonymity=scope.anonymity,
        human_check=scope.human_check,
        residual_risk=RESIDUAL_RISK,
        custody=_custody(scope),
    )
    return msgspec.convert(_spoken(msgspec.to_builtins(certificate)), Certificate)


def _spoken(value: Any) -> Any:
    """Long numbers and digests in groups, everywhere."""
    if isinstance(value, dict):
        return {name: _spoken(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_spoken(one) for one in value]
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}".replace(",", " ")
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return grouped(value)
    return value


def _plain(text: str | int) -> str:
    return str(text).replace(" ", "")


def for_one(certificate: Certificate, number: str) -> Certificate:
    """The certificate of one subject: what the batch's says of it, and nothing of its neighbours."""
    files = tuple(one for one in certificate.files if one.number == number)
    if not files:
        raise RequestInvalid("the certificate has no file of that number")
    replace = msgspec.structs.replace
    count = sum(len(one.outputs) for one in files)
    size_bytes = sum(int(_plain(output.size_bytes)) for one in files for output in one.outputs)
    inventory = Inventory(count, count, {}, {}, {files[0].kind: {"deidentified": count}}, 0, size_bytes)
    names = {str(one.proof.get("rule", "")) for one in files}
    anonymity = tuple(one for one in certificate.anonymity if one.table in names)
    custody = replace(certificate.custody, sources_blake3="", outputs_blake3=_outputs_digest(files))
    one = replace(
        certificate, scope="file", files=files, inventory=inventory, anonymity=anonymity, custody=custody
    )  # fmt: skip
    return msgspec.convert(_spoken(msgspec.to_builtins(one)), Certificate)


def _profile(scope: Scope) -> Profile:
    policy = scope.profile
    return Profile(
        name=policy.name, version=policy.version, blake3=blake3(canonical(policy)).hexdigest(),
        text_blake3=scope.profile_text_blake3, dicom_table=scope.dicom_table, basis=policy.basis,
        determination=policy.determination, options=_options(policy), approvals=policy.approvals,
    )  # fmt: skip


def _options(policy: DeidPolicy) -> dict[str, str | int | bool]:
    """Every option by its place in the profile, as it was in force."""
    found: dict[str, str | int | bool] = {"minimum_k": policy.minimum_k}
    for section, rules in (("dicom", policy.dicom), ("pixels", policy.pixels), ("slides", policy.slides)):
        for name, value in msgspec.to_builtins(rules).items():
            plain = isinstance(value, str | int | bool)
            found[f"{section}.{name}"] = value if plain else ", ".join(_words(value)) or "none"
    found["tables.rules"] = ", ".join(rule.name for rule in policy.tables) or "none"
    found["tables.dates"] = ", ".join(sorted({
        column.dates for rule in policy.tables for column in rule.columns.values() if column.rule == "date"
    })) or "none"  # fmt: skip
    return found


def _words(value: Iterable[object]) -> list[str]:
    return [one if isinstance(one, str) else canonical(one).decode() for one in value]


def _custody(scope: Scope) -> Custody:
    sources = blake3()
    for digest in sorted(scope.source_digests):
        sources.update(bytes.fromhex(digest))
    return Custody(
        sources_blake3=sources.hexdigest(),
        outputs_blake3=_outputs_digest(scope.files),
        previous=scope.previous,
        crosswalk=scope.crosswalk,
        reidentification="Only by a custodian with the crosswalk, for a stated purpose that is recorded.",
    )


def _outputs_digest(files: Iterable[FileRecord]) -> str:
    outputs = sorted((output.name, _plain(output.blake3)) for one in files for output in one.outputs)
    return blake3(canonical(outputs)).hexdigest()


# --- form and signature --------------------------------------------------------------------------------


def parts_of(certificate: Certificate) -> dict[str, str]:
    """The digest of each field, and of each file on its own."""
    parts = {
        name: _part(getattr(certificate, name))
        for name in certificate.__struct_fields__ if name != "files"
    }  # fmt: skip
    for index, one in enumerate(certificate.files, 1):
        parts[f"file {index} ({one.number})"] = _part(one)
    return parts


def _part(value: object) -> str:
    return grouped(blake3(canonical(value)).hexdigest())


def check_signable(determination: str) -> None:
    """Raises RequestInvalid for a profile whose legal basis is an example's."""
    if is_placeholder(determination):
        raise RequestInvalid(
            "the profile's `determination` is a placeholder, and a certificate would claim it",
            hint="Put number and date of your expert's signed report there, or claim another basis.",
        )


def sign(certificate: Certificate, key: SigningKey) -> SignedCertificate:
    """Raises RequestInvalid where the legal basis claimed is a placeholder."""
    check_signable(certificate.profile.determination)
    parts = parts_of(certificate)
    return SignedCertificate(certificate, parts, signing.sign(_signed_bytes(parts), key))


def _signed_bytes(parts: Mapping[str, str]) -> bytes:
    return FORM.encode() + b"\n" + canonical(dict(parts))


def encode(signed: SignedCertificate) -> bytes:
    return msgspec.json.format(canonical(signed), indent=1) + b"\n"


class Checked(Struct, frozen=True):
    """What checking a certificate found. `problems` is empty when every byte is what was signed and every output that
    was asked for is there; `files_checked` outputs were hashed anew."""

    problems: tuple[str, ...]
    fingerprint: str = ""
    trusted: bool = False
    made_at: str = ""
    numbers: int = 0
    files_checked: int = 0
    # files in the folder that the certificate does not know
    strangers: int = 0
    certificate: Certificate | None = None


def verify(data: bytes, *, folder: Path | None = None, trusted: Sequence[str] = ()) -> Checked:
    """Signature, form and, with `folder`, every output. A certificate carries its own public key, so a forger can sign
    another one with another key: `trusted` holds the fingerprints that the caller knows, and with none of them the
    fingerprint is for a person to compare."""
    try:
        signed = msgspec.json.decode(data, type=SignedCertificate)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Checked((f"not a certificate: {str(error)[:200]}",))
    problems = _form_problems(data, signed) + _part_problems(signed)
    problems += signing.problems_of(signed.signature, _signed_bytes(signed.parts))
    is_trusted = signing.same_key(signed.signature.fingerprint, tuple(trusted))
    if trusted and not is_trusted:
        problems.append("signature: made with a key that is not the one you trust")
    checked, strangers = 0, 0
    if folder is not None:
        checked, wrong = _output_problems(signed.certificate, folder)
        problems += wrong
        known_names = {output.name for one in signed.certificate.files for output in one.outputs}
        strangers = sum(
            path.is_symlink() or not path.is_dir()
            for path in folder.rglob("*") if str(path.relative_to(folder)) not in known_names
        )  # fmt: skip
    certificate = signed.certificate
    return Checked(
        tuple(problems[:PROBLEMS]), signed.signature.fingerprint, is_trusted, certificate.made_at,
        len({one.number for one in certificate.files}), checked, strangers, certificate,
    )  # fmt: skip


def _form_problems(data: bytes, signed: SignedCertificate) -> list[str]:
    expected = encode(signed)
    if data == expected:
        return []
    differs = (at for at, (one, other) in enumerate(zip(data, expected, strict=False)) if one != other)
    at = next(differs, min(len(data), len(expected)))
    return [f"line {data.count(bytes([10]), 0, at) + 1}, byte {at}: not as a certificate is written"]


def _part_problems(signed: SignedCertificate) -> list[str]:
    made = parts_of(signed.certificate)
    changed = [f"{name}: changed since signing" for name, digest in made.items() if signed.parts.get(name) != digest]
    missing = [f"{name}: signed, but not there" for name in signed.parts if name not in made]
    return changed + missing


def _output_problems(certificate: Certificate, folder: Path) -> tuple[int, list[str]]:
    """Outputs are named by their neutral names, which stand in the certificate anyway."""
    problems, checked = [], 0
    for one in certificate.files:
        for output in one.outputs:
            if ".." in output.name.split("/") or output.name.startswith("/"):
                problems.append("an output's name leaves the folder")
                continue
            try:
                digest, size_bytes = digest_of_file(folder / output.name)
            except MoverError:
                there = os.path.lexists(folder / output.name)
                problems.append(f"{output.name}: {'cannot be read' if there else 'is not there'}")
                continue
            checked += 1
            if (digest, str(size_bytes)) != (_plain(output.blake3), _plain(output.size_bytes)):
                problems.append(f"{output.name}: not the bytes that were certified")
    return checked, problems


# --- keys and facts of this machine --------------------------------------------------------------------


def fence_words(protection: Protection) -> tuple[str, ...]:
    """The fences of the parsing child that stood, in words."""
    stood = {
        "no files": protection.no_files,
        "no network": protection.no_network,
        "system calls filtered": protection.seccomp,
    }
    return ("limits on memory, time and files", *(word for word, stands in stood.items() if stands))


@cache
def this_tool(fences: tuple[str, ...] = ()) -> Tool:
    """The program that runs, by the digest of its own source files."""
    import mover
    import scanners

    digest = blake3()
    for package in (mover, scanners):
        root = Path(str(package.__file__)).parent
        for path in sorted(path for ending in ("*.py", "*.sql", "*.csv", "*.json") for path in root.rglob(ending)):
            digest.update(f"{root.name}/{path.relative_to(root)}\0".encode())
            digest.update(blake3(path.read_bytes()).digest())
    return Tool(
        name="mover", version=mover.__version__, code_blake3=digest.hexdigest(), python=platform.python_version(),
        fences=fences,
    )  # fmt: skip
