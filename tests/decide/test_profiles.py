"""Profiles: what contradicts itself, and that nothing widens without a named person."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from mover.decide.profiles import OPTIONS, is_placeholder, profile_problems, widening
from mover.errors import NotFound, PolicyInvalid
from mover.model.deid import DicomRules, PixelRules, SafePrivate, SlideRules
from mover.model.policy import DeidPolicy
from mover.policy import default_folder, load_policies, load_profile

APPROVAL = "approvals: [{option: %s, by: A. Head, on: '2026-01-31', reason: a study}]\n"


def profile(text: str, folder: Path) -> DeidPolicy:
    (folder / "p.yaml").write_text(f"kind: deid\nname: mine\n{text}")
    loaded = load_profile(folder / "p.yaml").policy
    assert isinstance(loaded, DeidPolicy)
    return loaded


def test_the_default_profile_is_the_models_defaults() -> None:
    """A site that reads the shipped file and one that has none must get the same, or the file would be a lie."""
    book = load_policies(default_folder())
    assert book.profile() == DeidPolicy()
    assert not widening(DeidPolicy()) and not list(profile_problems(DeidPolicy()))


def test_a_folder_without_a_default_profile_has_the_narrowest(tmp_path: Path) -> None:
    (tmp_path / "deid").mkdir()
    (tmp_path / "deid" / "strict.yaml").write_text("kind: deid\nname: strict\nslides: {accept: [aperio-svs]}\n")
    book = load_policies(tmp_path)
    assert book.profile() == DeidPolicy()
    assert book.profile("strict").slides.accept == ("aperio-svs",)
    with pytest.raises(NotFound):
        book.profile("stritc")  # a misspelt name never falls back


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("dicom: {retain_uids: true}\n", 3, "needs an approval: `option: dicom.retain_uids`"),
        ("pixels: {burned_in: trust}\n", 3, "pixels.burned_in"),
        ("tables: [{name: notes, columns: {a: {class: case}, note: {class: text, text: scrub}}}]\n", 3, "tables.text"),
        (APPROVAL % "dicom.retain_uids", 3, "does not use it"),
        (APPROVAL % "dicom.everything", 3, "no option is called"),
        (
            "dicom: {descriptors: clean}\napprovals: [{option: dicom.descriptors, by: '', on: soon, reason: ''}]\n",
            4, "names a person",
        ),
        ("basis: safe-harbor\n", 3, "shifted dates are not Safe Harbor"),
        (
            "basis: safe-harbor\ndicom: {dates: remove, retain_device: true}\n" + APPROVAL % "dicom.retain_device",
            4, "serial",
        ),
        ("basis: expert-determination\n", 3, "determination"),
        ("determination: report 7\n", 3, "another"),
        ("basis: hope\n", 3, "hope"),
        ("dicoms: {}\n", 3, "did you mean `dicom`?"),
        ("tables: [{name: one, columns: {a: {class: number}}}]\n", 3, "minimum"),
        ("tables: [{name: one, columns: {a: {class: enum}}}]\n", 3, "lists its values"),
        ("tables: [{name: one, columns: {a: {class: enum, values: ['=1+1']}}}]\n", 3, "formula"),
        ("tables: [{name: one, columns: {a: {class: code}}}]\n", 3, "names the system"),
        ("tables: [{name: one, columns: {a: {class: drop, optional: true}}}]\n", 3, "known by its columns"),
        ("tables: [{name: one, columns: {a: {class: patient}, b: {class: patient}}}]\n", 3, "whose row"),
        ("tables: [{name: one, columns: {a: {class: block, pattern: '(?P<block>.)(?P<case>.)'}}}]\n", 3, "case first"),
        ("tables: [{name: one, columns: {'=a': {class: case}}}]\n", 3, "formula"),
        ("tables: [{name: one, columns: {a: {class: case, as: b}}}]\n", 3, "keeps its name"),
        ("tables: [{name: one, columns: {a: {class: case}}}, {name: one, columns: {b: {class: case}}}]\n", 3, "twice"),
    ],
)  # fmt: skip
def test_an_invalid_profile_stops_where_the_mistake_stands(tmp_path: Path, text: str, line: int, what: str) -> None:
    """It never falls back to a default: what was meant to be narrower would silently be wider."""
    with pytest.raises(PolicyInvalid) as refused:
        profile(text, tmp_path)
    said = [(str(one["where"]), str(one["what"])) for one in refused.value.details]
    assert any(f"p.yaml:{line}:" in where and what in words for where, words in said), said


def test_a_widened_profile_repeats_who_allowed_it(tmp_path: Path) -> None:
    loaded = profile("dicom: {retain_device: true}\n" + APPROVAL % "dicom.retain_device", tmp_path)
    assert list(widening(loaded)) == ["dicom.retain_device"] and loaded.approvals[0].by == "A. Head"


# what can only make less pass, or another way of the same; everything else has to be in `widening`
NARROWER = {
    "dicom.dates": "remove", "dicom.structured_content": "remove", "dicom.refuse_classes": ("1.2.3",),
    "pixels.mask_margin_px": 9, "pixels.films": "every",
    "slides.accept": ("aperio-svs",), "slides.drop_keys": ("Parmset",),
}  # fmt: skip


@pytest.mark.parametrize(("group", "rules"), [("dicom", DicomRules), ("pixels", PixelRules), ("slides", SlideRules)])
def test_every_option_of_the_model_is_judged(group: str, rules: type[msgspec.Struct]) -> None:
    """An option that somebody adds to the model must not widen unnoticed because nobody listed it."""
    hints = typing.get_type_hints(rules)
    for field in msgspec.structs.fields(rules):
        option = f"{group}.{field.name}"
        if option in NARROWER:
            changed = {field.name: NARROWER[option]}
        else:
            changed = {field.name: _other(hints[field.name], field.default, option)}
        made = DeidPolicy(**{group: rules(**changed)})
        assert (option in widening(made)) == (option not in NARROWER), option
    assert set(OPTIONS) >= set(widening(DeidPolicy(dicom=DicomRules(retain_uids=True))))


def _other(hint: object, default: object, option: str) -> object:
    if option == "dicom.safe_private":
        return (SafePrivate(creator="GEMS", elements=("0019,xx0c",)),)
    if isinstance(default, bool):
        return not default
    chosen = {"pixels.burned_in": "trust", "pixels.ultrasound": "ocr"}
    return chosen.get(option) or next(word for word in typing.get_args(hint) if word != default)


@pytest.mark.parametrize(
    ("words", "is_one"),
    [("N/A", True), ("None.", True), ("to be determined", True), ("TBA", True), ("No 17 of 2026", False), ("", False)],
)
def test_words_that_say_there_is_no_report_stand_for_none(words: str, is_one: bool) -> None:
    """A certificate would claim an expert's determination called N/A."""
    assert is_placeholder(words) is is_one
