"""Write the DICOM tables of `mover/decide/dicom` anew, from public machine-readable copies of the standard.

    pip install dicom-anonymizer==2.1.0 idiscore==1.2.0 highdicom==0.28.2 pydicom
    python bench/dicom_tables.py

- `confidentiality.py`: PS3.15 Table E.1-1. The basic profile's column comes from dicom-anonymizer (edition 2026c),
  the option columns from idiscore (scraped 2024-09-19); a row that only one of them knows is taken all the same.
- `attributes.py`: which attribute belongs to which object (PS3.3, by highdicom), value representations and the
  registered UIDs (PS3.6, by pydicom).

Both sources are read as text and data, neither is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import defaultdict
from pathlib import Path

from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.uid import UID_dictionary

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "mover" / "decide" / "dicom"
OPTIONS = {
    "retain_safe_private": "P", "retain_uid": "U", "retain_device_id": "V", "retain_institution_id": "I",
    "retain_patient_characteristics": "C", "retain_full_dates": "F", "retain_modified_dates": "M",
    "clean_descriptors": "D", "clean_structured_content": "S", "clean_graphics": "G",
}  # fmt: skip
CODES = {
    "DUMMY": "D", "EMPTY": "Z", "REMOVE": "X", "KEEP": "K", "CLEAN": "C", "UID": "U", "EMPTY_OR_DUMMY": "Z/D",
    "REPLACE_OR_DUMMY": "Z/D", "REMOVE_OR_EMPTY": "X/Z", "REMOVE_OR_DUMMY": "X/D",
    "REMOVE_OR_EMPTY_OR_DUMMY": "X/Z/D", "REMOVE_OR_EMPTY_OR_UID": "X/Z/U",
}  # fmt: skip
LISTS = {
    "D_TAGS": "D", "Z_TAGS": "Z", "X_TAGS": "X", "U_TAGS": "U", "Z_D_TAGS": "Z/D", "X_Z_TAGS": "X/Z", "X_D_TAGS": "X/D",
    "X_Z_D_TAGS": "X/Z/D", "X_Z_U_STAR_TAGS": "X/Z/U",
}  # fmt: skip
HEAD = '''"""{title}

Written by `bench/dicom_tables.py`; do not edit. {source}
"""

from __future__ import annotations

from typing import Final

'''


def place(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: see the head of this file")
    return Path(found.origin).parent


def basic_rows() -> dict[int, str]:
    """Action by tag, of the newest basic profile."""
    text = (place("dicomanonymizer") / "dicom_anonymization_databases" / "dicomfields_2026c.py").read_text()
    rows: dict[int, str] = {}
    for name, body in re.findall(r"^([A-Z_]+) = \[\n(.*?)^\]", text, re.M | re.S):
        for group, element in re.findall(r"^    \((0x[0-9A-Fa-f]{4}), (0x[0-9A-Fa-f]{4})\)", body, re.M):
            rows[int(group, 16) << 16 | int(element, 16)] = LISTS[name]
    return rows


def option_rows() -> tuple[dict[int, str], dict[str, dict[int, str]]]:
    """The older basic profile, and each option's column."""
    text = (place("idiscore") / "_public_dicom.py").read_text()
    tables: dict[str, dict[int, str]] = {}
    for name, body in re.findall(r"^([a-z_]+) = RawNemaRuleSet\((.*?)^\)", text, re.M | re.S):
        pairs = re.findall(r'SingleTag\("([0-9a-f]{8})"\),\s*ActionCodes\.([A-Z_]+)', body)
        tables[name] = {int(tag, 16): CODES[code] for tag, code in pairs}
    return tables.pop("basic_profile"), tables


def keyword_of(tag: int) -> str:
    return DicomDictionary[tag][4] if tag in DicomDictionary else "-"


def write_confidentiality() -> None:
    basic = basic_rows()
    older, options = option_rows()
    lines = []
    for tag in sorted(basic.keys() | older.keys()):
        marks = [f"{mark}{options[name][tag]}" for name, mark in OPTIONS.items() if tag in options.get(name, {})]
        lines.append(f"{tag:08X} {basic.get(tag, older.get(tag, 'X'))} {','.join(marks) or '-'} {keyword_of(tag)}")
    body = "\n".join(lines)
    head = HEAD.format(
        title="PS3.15 Table E.1-1: what the Basic Application Level Confidentiality Profile does, and its options.",
        source="Rows: tag, basic action, option actions (P safe private,\nU UIDs, V device, I institution, C patient "
        "characteristics, F full dates, M modified dates, D descriptors,\nS structured content, G graphics), keyword.",
    )
    names = (
        'EDITION: Final = "2026c (basic profile), 2024d (options)"\n'
        'SOURCE: Final = "dicom-anonymizer 2.1.0, idiscore 1.2.0"\n'
        f'SHA256: Final = "{hashlib.sha256(body.encode()).hexdigest()}"\n'
    )
    (TARGET / "confidentiality.py").write_text(f'{head}{names}\nTABLE: Final = """\\\n{body}"""\n')
    print(len(lines), "rows;", sum(basic.get(tag) != older.get(tag) for tag in older), "differ between the editions")


def object_masks() -> tuple[list[str], dict[str, int], dict[int, int]]:
    """The objects, each SOP class's object, and for each attribute the set of objects as bits."""
    folder = place("highdicom") / "_standard"
    modules = json.loads((folder / "module_attribute_map.json").read_text())
    objects = json.loads((folder / "iod_module_map.json").read_text())
    classes = json.loads((folder / "sop_class_iod_map.json").read_text())
    names = sorted(objects)
    masks: dict[int, int] = defaultdict(int)
    for number, name in enumerate(names):
        for module in objects[name]:
            for attribute in modules.get(module["key"], ()):
                tag = tag_for_keyword(attribute["keyword"])
                if tag is not None:
                    masks[tag] |= 1 << number
    return names, {uid: names.index(name) for uid, name in classes.items()}, masks


def wrapped(words: list[str], width: int = 118) -> str:
    lines, line = [], ""
    for word in words:
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def tags_of(tags: list[int]) -> str:
    return wrapped([f"{tag:08X}" for tag in sorted(tags)])


def write_attributes() -> None:
    names, classes, masks = object_masks()
    by_mask: dict[int, list[int]] = defaultdict(list)
    for tag, mask in masks.items():
        by_mask[mask].append(tag)
    allowed = "\n".join(f"{mask:x}:\n{tags_of(by_mask[mask])}" for mask in sorted(by_mask))
    kinds: dict[str, list[int]] = defaultdict(list)
    for tag, entry in DicomDictionary.items():
        if entry[0] and tag >> 16 not in (0, 2, 4):
            kinds[entry[0].split(" or ")[0]].append(tag)
    vrs = "\n".join(f"{kind}:\n{tags_of(tags)}" for kind, tags in sorted(kinds.items()))
    root = "1.2.840.10008."
    uids = wrapped(sorted(uid.removeprefix(root) for uid in UID_dictionary if uid.startswith(root)))
    listed = "\n".join(f"{uid} {number} {UID_dictionary[uid][0].removesuffix(' Storage')}"
                       for uid, number in sorted(classes.items()) if uid in UID_dictionary)
    head = HEAD.format(
        title="PS3.3 and PS3.6 as facts: which attribute stands in which object, its value representation, known UIDs.",
        source="Source: highdicom 0.28.2, pydicom 3.0.\nALLOWED: a set of objects as bits, then its attributes.",
    )
    parts = [f'CLASSES: Final = """\\\n{listed}"""\n', f'ALLOWED: Final = """\\\n{allowed}"""\n']
    parts += [f'KINDS: Final = """\\\n{vrs}"""\n', f'UIDS: Final = """\\\n{uids}"""\n']
    (TARGET / "attributes.py").write_text(head + "\n".join(parts))
    print(len(masks), "attributes in", len(names), "objects")


if __name__ == "__main__":
    write_confidentiality()
    write_attributes()
