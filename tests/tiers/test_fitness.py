"""Policies are held against what tiers were found able to do, not against what they are called."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mover.daemon import open_house
from mover.decide.fitness import LACKS
from mover.errors import PolicyInvalid
from mover.model.tiers import TraitName, Traits
from mover.policy import PolicyBook, load_policies
from mover.settings import load
from mover.tiers.fitness import check_traits
from tests.rooms.test_roles import write_settings
from tests.support.postgres import Dsns

ABLE = Traits(conditional_put=True, range_read=True, multipart=True)
IMAGES = "kind: images\nname: images\nfrom: intake\nto: archive\n"


def book(folder: Path, text: str) -> PolicyBook:
    (folder / "one.yaml").write_text(text)
    return load_policies(folder)


def test_each_trait_a_policy_can_ask_for_says_what_its_lack_means() -> None:
    """The sentence a person reads when the daemon refuses to start; and each is a trait there is."""
    assert set(LACKS) == set(TraitName.__args__) and set(LACKS) <= set(Traits.__struct_fields__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "lacking", "place", "told"),
    [
        (
            IMAGES,
            "conditional_put",
            "one.yaml:4:5",
            "archive lacks conditional_put: it overwrites a name that is taken",
        ),
        (
            IMAGES + "needs: [multipart]\n",
            "multipart",
            "one.yaml:5:8",
            "archive lacks multipart: it takes no upload in parts",
        ),
        (
            "kind: stage\nname: stage\nfrom: archive\nto: flash\n",
            "range_read",
            "one.yaml:3:7",
            "archive lacks range_read: it does not give parts of an object",
        ),
        (
            "kind: move\nname: mv\nfrom: nas\nto: archive\n",
            "conditional_put",
            "one.yaml:4:5",
            "archive lacks conditional_put: it overwrites a name that is taken",
        ),
    ],
)
def test_a_policy_that_its_tier_cannot_keep_is_refused(
    tmp_path: Path, text: str, lacking: str, place: str, told: str
) -> None:
    """With its place in the file, before the first byte is moved; and not where the trait is there."""
    policies = book(tmp_path, text)
    check_traits(policies, {"archive": ABLE})
    check_traits(policies, {})
    with pytest.raises(PolicyInvalid) as caught:
        check_traits(policies, {"archive": msgspec.structs.replace(ABLE, **{lacking: False})})
    assert [(one["where"], one["what"]) for one in caught.value.details] == [(f"{tmp_path}/{place}", told)]


def test_a_policy_may_ask_for_a_lock(tmp_path: Path) -> None:
    """WORM is a promise of the bucket: a bucket that does not keep it must not look as if it did."""
    policies = book(tmp_path, IMAGES + "needs: [object_lock]\n")
    with pytest.raises(PolicyInvalid) as caught:
        check_traits(policies, {"archive": ABLE})
    assert "does not keep objects from being deleted" in str(caught.value.details)
    check_traits(policies, {"archive": msgspec.structs.replace(ABLE, object_lock=True)})


def test_an_archive_policy_needs_locks_of_both_tiers_and_a_second_that_overwrites_nothing(tmp_path: Path) -> None:
    policies = book(tmp_path, "kind: archive\nname: archive\ntier: one\nsecond_copy: two\nlock_s: 86400\n")
    locking = msgspec.structs.replace(ABLE, object_lock=True)
    check_traits(policies, {"one": locking, "two": locking})
    with pytest.raises(PolicyInvalid) as caught:
        check_traits(policies, {"one": ABLE, "two": msgspec.structs.replace(ABLE, conditional_put=False)})
    lacks = [" ".join(str(one["what"]).split()[:3]) for one in caught.value.details]
    assert lacks == ["two lacks conditional_put:", "one lacks object_lock:", "two lacks object_lock:"]


@pytest.mark.slow
async def test_the_daemon_does_not_start_with_a_policy_its_tiers_cannot_keep(tmp_path: Path, dsns: Dsns) -> None:
    """By what was found when the tiers were opened; a file system keeps nothing from being deleted."""
    settings = write_settings(tmp_path, dsns, role="clean")
    text = settings.read_text().replace(
        "tiers:\n", f"tiers:\n  cold: {{kind: posix, zone: deidentified, role: archive, path: {tmp_path}/cold}}\n"
    )
    (tmp_path / "cold").mkdir()
    (tmp_path / "policies").mkdir()
    policy = tmp_path / "policies" / "move.yaml"
    settings.write_text(text + "policies: policies\n")
    policy.write_text("kind: move\nname: move\nfrom: flash\nto: cold\nneeds: [object_lock]\n")
    with pytest.raises(PolicyInvalid, match="cold lacks object_lock"):
        async with open_house(load(settings)):
            pass
    policy.write_text("kind: move\nname: move\nfrom: flash\nto: cold\n")
    async with open_house(load(settings)):
        pass
