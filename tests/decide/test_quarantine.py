"""Which decisions are sound for what waits, and what makes packs alike."""

from __future__ import annotations

import pytest
import yaml

from mover.decide.packs import SLIDE_SUFFIXES, find_packs
from mover.decide.quarantine import (
    ACTIONS,
    NO_THUMBNAIL,
    RECORDS,
    Reviewing,
    advice,
    cause_of,
    check_decision,
    kind_of,
    offers,
    proposal,
    reviewers,
    suffixes_of,
)
from mover.decide.tables.rows import arrange
from mover.errors import Conflict, IdentityError, IntegrityError, PlaceUnknown, all_errors
from mover.model.policy import ColumnRule, TableRule
from tests.decide.test_packs import entry

CODES = [one.code for one in all_errors() if issubclass(one, IdentityError | IntegrityError)]
CODES += ["pack-incomplete", "not-declared", "entry-unknown", "pack-too-large", "a-code-of-next-year"]


def test_refusals_that_differ_in_numbers_only_are_one_cause() -> None:
    """Else a thousand torn files are a thousand causes."""
    said = [f"a read of {n} bytes at {n * 7} leaves the file" for n in (4, 91)]
    one, other = (cause_of("structure-invalid", words, "svs") for words in said)
    assert one == other and one.words == "a read of # bytes at # leaves the file"
    assert cause_of("structure-invalid", one.words, "ndpi").id != one.id
    assert cause_of("place-unknown", one.words, "svs").id != one.id
    assert cause_of("format-unknown", None, "").words == ""


def test_a_rule_is_proposed_for_a_column_that_no_policy_lists_and_it_lets_nothing_leave() -> None:
    """One click from a refusal to a draft: the column's name is only a shape here, and its class is `drop`."""
    table = TableRule(name="cases", columns={"CASE_ID": ColumnRule(rule="drop")})
    with pytest.raises(PlaceUnknown) as refused:
        arrange(table, ["CASE_ID", "WARD 7: phone"])
    told = cause_of(refused.value.code, f"{refused.value.what} [{refused.value.where}]", RECORDS)
    drafted = yaml.safe_load(proposal(told))
    assert drafted == {"tables": [{"name": "cases", "columns": {"AAAA #: aaaaa": {"class": "drop"}}}]}
    assert [proposal(cause_of(code, told.words, "svs")) for code in ("structure-invalid", "not-declared")] == ["", ""]
    assert proposal(cause_of("place-unknown", "a part of the file that nobody knows", "svs")) == ""


@pytest.mark.parametrize("code", CODES)
def test_every_cause_has_a_way_out_and_none_lets_a_refused_file_pass(code: str) -> None:
    """Waivers are of completeness (a thumbnail, a list): what the bytes were refused for is looked at again."""
    cause = cause_of(code, "whatever it said", "svs")
    actions = {offer.action for offer in offers(cause)}
    assert {"retry", "exclude"} <= actions <= set(ACTIONS)
    assert actions <= {"retry", "exclude"} or code == "not-declared"
    assert advice(cause)


def test_only_kinds_of_files_may_be_decided_for_good() -> None:
    """A standing exclusion of a fault would let later scans go missing in silence."""
    standing = {code for code in CODES if any(o.standing for o in offers(cause_of(code, "x", "svs")))}
    assert standing == {"format-unsupported", "format-unknown", "entry-unknown"}


def test_what_the_second_look_refused_is_retried_only_by_another_judge() -> None:
    """It samples: asking again and again until it finds nothing is no proof."""
    [again] = [offer for offer in offers(cause_of("redaction-unproven", "x", "svs")) if offer.action == "retry"]
    assert again.changed and not again.standing


def test_an_unsound_decision_is_refused_with_the_sound_ones() -> None:
    with pytest.raises(Conflict) as refused:
        check_decision(cause_of("redaction-unproven", "x", "svs"), "accept-without-thumbnail")
    assert "retry, exclude" in refused.value.advice
    bare = cause_of("pack-incomplete", NO_THUMBNAIL, "svs")
    assert check_decision(bare, "accept-without-thumbnail").standing
    lone = cause_of("pack-incomplete", "a thumbnail without a slide image", "picture")
    with pytest.raises(Conflict):
        check_decision(lone, "accept-without-thumbnail")
    assert [offer.action for offer in offers(cause_of("place-unknown", "x", RECORDS))] == ["retry"]


def test_the_words_of_the_walk_and_of_the_table_are_the_same() -> None:
    [pack] = find_packs([entry("b/x.svs")], require_thumbnail=True).packs
    assert (pack.reason, pack.explanation) == ("pack-incomplete", NO_THUMBNAIL)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [(["a/x.svs", "a/x.jpg"], "svs"), (["a/x.mrxs"], "mirax"), (["a/x.vms"], "vms"), (["a/1.dcm"], "dicom"),
     (["a/x.jpg"], "picture"), (["a/Jane Smith"], "other"), (["a/x.Jane Smith"], "other")],
)  # fmt: skip
def test_a_kind_is_a_word_of_ours(keys: list[str], kind: str) -> None:
    """A suffix may be anything, a name too; what is stored beside a pack is not."""
    assert kind_of(keys) == kind


def test_the_suffixes_of_all_kinds_are_all_suffixes() -> None:
    kinds = {kind_of([f"x{suffix}"]) for suffix in SLIDE_SUFFIXES}
    assert sorted(suffix for kind in kinds for suffix in suffixes_of(kind)) == sorted(SLIDE_SUFFIXES)
    assert suffixes_of("other") == suffixes_of("picture") == frozenset()


def test_two_persons_decide_where_a_proof_found_somebodys_name_and_wherever_a_policy_says_so() -> None:
    """What stays inside is one person's to keep there; a site may say otherwise, in both directions and by code, and of
    several policies the strictest holds."""
    harmless, found = cause_of("pack-incomplete", NO_THUMBNAIL, "svs"), cause_of("redaction-unproven", "", "svs")
    assert [reviewers(harmless, action) for action in ("retry", "exclude", "accept-without-thumbnail")] == [1, 1, 1]
    assert [reviewers(found, action) for action in ("retry", "exclude")] == [2, 1]
    both, alone = Reviewing(persons=2), Reviewing(persons=1)
    assert reviewers(harmless, "exclude", [both]) == 2 and reviewers(found, "retry", [alone]) == 1
    assert reviewers(found, "retry", [alone, Reviewing()]) == 2 and reviewers(harmless, "retry", [alone, both]) == 2
    single = Reviewing(persons=2, of={"pack-incomplete": 1, "format-unknown": 2})
    other = cause_of("entry-unknown", "", "")
    assert (reviewers(harmless, "retry", [single]), reviewers(other, "retry", [single])) == (1, 2)
