"""Write `profile_facts.txt`: what two published packages say of PS3.15 Table E.1-1, as tags and action codes.

    pip install dicom-anonymizer==2.1.0 idiscore==1.2.0      (in an environment of its own)
    python tests/data/dicom/make_profile_facts.py

Both packages are imported and asked, where `bench/dicom_tables.py` reads their text: a row lost by one way is not lost
by the other. The file holds facts of the standard only; the packages are named with their versions, and the files that
were asked with their digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

TARGET: Final = Path(__file__).with_name("profile_facts.txt")
LISTS: Final = {
    "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U*",
}  # fmt: skip
OPTIONS: Final = {
    "retain_safe_private": "P", "retain_uid": "U", "retain_device_id": "V", "retain_institution_id": "I",
    "retain_patient_characteristics": "C", "retain_full_dates": "F", "retain_modified_dates": "M",
    "clean_descriptors": "D", "clean_structured_content": "S", "clean_graphics": "G",
}  # fmt: skip


def main() -> None:
    from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c
    from idiscore import _public_dicom

    lines = [_head("dicom-anonymizer basic 2026c", "dicom-anonymizer", dicomfields_2026c), *_lists(dicomfields_2026c)]
    lines += [_head("idiscore basic", "idiscore", _public_dicom), *_rules(_public_dicom.basic_profile)]
    for name, letter in OPTIONS.items():
        head = _head(f"idiscore option {letter}", "idiscore", _public_dicom)
        lines += [head, *_rules(getattr(_public_dicom, name))]
    TARGET.write_text("\n".join(lines) + "\n", "ascii")


def _head(section: str, package: str, module: ModuleType) -> str:
    digest = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
    return f"# {section}; {package} {version(package)}; sha256 {digest}"


def _lists(module: ModuleType) -> Iterator[str]:
    """A tag is (group, element); a repeating group comes as (group, element, masks)."""
    found = {tag: code for name, code in LISTS.items() for tag in getattr(module, name)}
    for tag in sorted(found):
        masked = any(mask != 0xFFFF for mask in tag[2:])
        yield f"{tag[0]:04X}{tag[1]:04X}{' masked' if masked else ''} {found[tag]}"


def _rules(rules: Any) -> Iterator[str]:
    """Repeating groups (60xx) and private elements are written by their own words."""
    found = {}
    for identifier, action in rules.rules:
        tag = getattr(identifier, "tag", None)
        single = hasattr(tag, "element")
        name = f"{int(tag.group):04X}{int(tag.element):04X}" if single else str(identifier).replace(" ", "_")
        found[name] = action.key
    for name in sorted(found):
        yield f"{name} {found[name].replace(' ', '')}"


if __name__ == "__main__":
    main()
