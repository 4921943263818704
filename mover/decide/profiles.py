"""What a de-identification profile may say: options that contradict each other, and options that keep more than the
defaults do, which need the approval of a named person (design: deidentification 6).

The defaults are the narrowest. Whatever widens them stands in `widening`, by the words an approval must repeat; an
option of the model that is not listed there can only narrow. A test holds the list against the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from mover.decide.folding import fold
from mover.decide.tables import MAX_FACTS, column_problems
from mover.model.deid import Approval
from mover.model.policy import DeidPolicy, TableRule

Path_ = tuple[str | int, ...]

_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

# 45 CFR 164.514(b)(2)(i): what Safe Harbor does not know how to keep, by option
_NOT_SAFE_HARBOR = {
    "dicom.retain_uids": "unique identifying numbers (R)",
    "dicom.retain_device": "device identifiers and serial numbers (M)",
    "dicom.retain_institution": "geographic units smaller than a state (B)",
}


def profile_problems(profile: DeidPolicy) -> Iterator[tuple[Path_, str]]:
    """Every contradiction with the place in the file where it stands; none for a profile that may be used."""
    yield from _about_basis(profile)
    yield from _about_approvals(profile)
    names = [table.name for table in profile.tables]
    for index, table in enumerate(profile.tables):
        if names.index(table.name) != index:
            yield ("tables", index, "name"), f"the table {table.name} is declared twice"
        yield from _about_table(profile, table, ("tables", index))
    for index, extension in enumerate(profile.extensions):
        if not extension.startswith(".") or len(extension) < 2:
            yield ("extensions", index), f"the extension {extension!r} does not begin with a dot"


def widening(profile: DeidPolicy) -> dict[str, Path_]:
    """The options in use that keep more than the defaults, by the words of their approval, and where they stand."""
    dicom, pixels = profile.dicom, profile.pixels
    in_use: dict[str, bool] = {
        "dicom.retain_uids": dicom.retain_uids,
        "dicom.retain_device": dicom.retain_device,
        "dicom.retain_institution": dicom.retain_institution,
        "dicom.retain_patient_characteristics": dicom.retain_patient_characteristics,
        "dicom.descriptors": dicom.descriptors == "clean",
        "dicom.graphics": dicom.graphics == "clean",
        "dicom.safe_private": bool(dicom.safe_private),
        "pixels.burned_in": pixels.burned_in == "trust",
        # reading outside the declared regions is less than blanking it
        "pixels.ultrasound": pixels.ultrasound == "ocr",
    }
    found: dict[str, Path_] = {option: tuple(option.split(".")) for option, used in in_use.items() if used}
    for index, table in enumerate(profile.tables):
        for column, rule in table.columns.items():
            if rule.text == "scrub":
                found.setdefault("tables.text", ("tables", index, "columns", column))
    return found


OPTIONS = (
    "dicom.retain_uids", "dicom.retain_device", "dicom.retain_institution", "dicom.retain_patient_characteristics",
    "dicom.descriptors", "dicom.graphics", "dicom.safe_private", "pixels.burned_in", "pixels.ultrasound", "tables.text",
)  # fmt: skip


_PLACEHOLDER: Final = re.compile(
    r"\s*([<\[{…]|\.\.\.|(example|placeholder|todo|tbd|fixme|your|insert|xx+)\b"
    r"|(n/?a|none|null|no|test|dummy|unknown|pending|tba|to be (added|announced|determined|done))\W*$)",
    re.IGNORECASE,
)


def is_placeholder(determination: str) -> bool:
    """Whether words stand where an expert's report should: a certificate that repeated them would claim nothing."""
    says = any(map(str.isalnum, determination))
    return bool(determination) and (not says or _PLACEHOLDER.match(determination) is not None)


def _about_basis(profile: DeidPolicy) -> Iterator[tuple[Path_, str]]:
    if profile.basis == "expert-determination" and not profile.determination.strip():
        yield ("basis",), "expert-determination needs `determination`: number or title of the expert's signed report"
    if profile.basis != "expert-determination" and profile.determination:
        yield ("determination",), "an expert's report is named, but the basis claimed is another"
    if profile.basis != "safe-harbor":
        return
    if profile.dicom.dates == "shift":
        yield ("basis",), "shifted dates are not Safe Harbor (45 CFR 164.514(b)(2)(i)(C)); say `dicom: {dates: remove}`"
    for option, place in widening(profile).items():
        if option in _NOT_SAFE_HARBOR:
            yield place, f"{option} is not Safe Harbor: it keeps {_NOT_SAFE_HARBOR[option]}"


def _about_approvals(profile: DeidPolicy) -> Iterator[tuple[Path_, str]]:
    wide = widening(profile)
    approved = [approval.option for approval in profile.approvals]
    for option, place in wide.items():
        if option not in approved:
            yield place, f"this keeps more than the default and needs an approval: `option: {option}`, by, on, reason"
    for index, approval in enumerate(profile.approvals):
        place = ("approvals", index)
        if approval.option not in OPTIONS:
            yield (*place, "option"), f"no option is called {approval.option}; they are {', '.join(OPTIONS)}"
        elif approval.option not in wide:
            yield (*place, "option"), f"{approval.option} is approved, but this profile does not use it"
        elif approved.index(approval.option) != index:
            yield (*place, "option"), f"{approval.option} is approved twice"
        yield from (((*place, name), what) for name, what in _unsaid(approval))


def _unsaid(approval: Approval) -> Iterator[tuple[str, str]]:
    if not approval.by.strip():
        yield "by", "an approval names a person"
    if not approval.reason.strip():
        yield "reason", "an approval has a reason"
    if not _ISO_DATE.fullmatch(approval.on):
        yield "on", "an approval has a date, as 2026-01-31"


def _about_table(profile: DeidPolicy, table: TableRule, place: Path_) -> Iterator[tuple[Path_, str]]:
    folded = [fold(column) for column in table.columns]
    if not table.columns or all(rule.optional for rule in table.columns.values()):
        yield (*place, "columns"), "a table is known by its columns: at least one may not be optional"
    if len(table.columns) > MAX_FACTS:
        yield (*place, "columns"), f"more than {MAX_FACTS} columns"
    classes = [rule.rule for rule in table.columns.values()]
    for link in ("case", "patient"):
        if classes.count(link) > 1:
            yield (*place, "columns"), f"more than one column of class {link}: whose row would it be?"
    for index, (column, rule) in enumerate(table.columns.items()):
        at = (*place, "columns", column)
        if folded.index(folded[index]) != index:
            yield at, "two columns differ only in case or spaces"
        if not column.strip() or not column.isprintable() or column.startswith(("=", "+", "-", "@")):
            yield at, "a column's name is blank, unprintable or would start a formula in a spreadsheet"
        if rule.rename is not None:
            yield at, "`as` names a fact of the catalog; a released column keeps its name"
        if rule.quasi and rule.rule in ("drop", "text", "image", "case", "patient", "block", "slide"):
            yield at, "a pseudonym, a dropped column and free text are no quasi-identifiers"
        yield from ((at, text) for text in column_problems(rule, basis=profile.basis))
