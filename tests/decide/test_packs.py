"""Packs: which entries belong together, and what waits in quarantine."""

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.packs import FoundPack, find_packs
from mover.model.tiers import Entry, Fingerprint


def entry(key: str, *, size: int = 10, kind: str = "file") -> Entry:
    return Entry(key, kind, Fingerprint(size, 0, ""))


def packs(*keys: str, **options) -> dict[str, FoundPack]:
    options.setdefault("require_thumbnail", True)
    tally = find_packs([entry(key) for key in keys], **options)
    return {pack.barcode: pack for pack in tally.packs}


def test_a_slide_and_its_thumbnail_are_one_pack():
    found = packs("b/S26-1 A.svs", "b/S26-1 A.JPG")["s26-1 a"]
    assert (found.keys, found.reason, found.suffix) == (("b/S26-1 A.svs", "b/S26-1 A.JPG"), None, ".svs")


def test_a_missing_thumbnail_is_incomplete():
    assert packs("b/x.svs")["x"].reason == "pack-incomplete"
    assert packs("b/x.svs", require_thumbnail=False)["x"].reason is None


def test_a_thumbnail_alone_is_incomplete():
    assert packs("b/x.jpg")["x"].reason == "pack-incomplete"


def test_two_files_that_share_a_barcode_are_never_guessed_at():
    """Names that differ only in case, or in the suffix, are for a person to tell apart."""
    assert packs("b/x.svs", "b/X.svs", "b/x.jpg")["x"].reason == "pack-ambiguous"
    assert packs("b/x.svs", "b/x.ndpi", "b/x.jpg")["x"].reason == "pack-ambiguous"
    assert packs("b/x.svs", "b/x.jpg", "b/x.png")["x"].reason == "pack-ambiguous"


def test_strangers_wait_and_tables_are_left_to_the_record_workflow():
    tally = find_packs([entry("b/readme.doc"), entry("b/cases.csv")], require_thumbnail=True)
    assert [(p.reason, p.keys) for p in tally.packs] == [("entry-unknown", ("b/readme.doc",))]
    assert tally.tables == 1


def test_a_symlink_is_not_followed():
    tally = find_packs([entry("b/x.svs", kind="symlink"), entry("b/x.jpg")], require_thumbnail=True)
    assert {p.reason for p in tally.packs} == {"entry-unknown", "pack-incomplete"}


def test_an_empty_image_is_said_to_be_empty():
    tally = find_packs([entry("b/x.svs", size=0), entry("b/x.jpg")], require_thumbnail=True)
    assert [p.reason for p in tally.packs] == ["structure-invalid"]


def test_a_mirax_folder_belongs_to_its_slide():
    found = packs("b/x.mrxs", "b/x.jpg", "b/x/Slidedat.ini", "b/x/Data0000.dat")
    assert set(found) == {"x"} and len(found["x"].keys) == 4


def test_missing_and_undeclared_packs_are_counted():
    """Four slides must not be missing silently."""
    files = [entry("b/1.svs"), entry("b/1.jpg"), entry("b/2.svs"), entry("b/2.jpg")]
    tally = find_packs(files, require_thumbnail=True, expected=frozenset({"1.svs", "3"}))
    assert (tally.missing, tally.undeclared) == (1, 1)
    assert {p.barcode: p.reason for p in tally.packs} == {"1": None, "2": "not-declared"}
    assert find_packs(files, require_thumbnail=True, expected_count=3).missing == 1
    assert find_packs(files, require_thumbnail=True, expected_count=1).undeclared == 1


NAMES = st.lists(
    st.sampled_from(["a", "B", "ä", "c d"]).flatmap(
        lambda stem: st.sampled_from([".svs", ".jpg", ".JPG", ".csv", ".bin", ""]).map(lambda s: "f/" + stem + s)
    ),
    unique=True,
)


@given(NAMES)
def test_every_entry_is_in_exactly_one_pack_or_counted_as_a_table(keys: list[str]):
    tally = find_packs([entry(key) for key in keys], require_thumbnail=True)
    held = [key for pack in tally.packs for key in pack.keys]
    assert len(held) == len(set(held)) and len(held) + tally.tables == len(keys)
