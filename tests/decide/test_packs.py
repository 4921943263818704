"""Packs: which entries belong together, and what waits in quarantine."""

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.packs import DICOM_FILES_MAX, FoundPack, Members, find_packs, members_of, scan_digest
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


def test_objects_of_a_folder_are_one_scan_named_by_its_place():
    """Series of two studies are often called the same; the folder's own name is what tables know."""
    found = packs("b/S1/CT/1.dcm", "b/S1/CT/2.dcm", "b/S2/CT/1.dcm", "b/S2/CT/DICOMDIR", folder="b")
    assert {name: (len(pack.keys), pack.reason) for name, pack in found.items()} == {
        "s1/ct": (2, "pack-incomplete"), "s2/ct": (1, "pack-incomplete")
    }  # fmt: skip
    found = packs("b/1.dcm", "b/2.DCM", folder="b", without_thumbnail=frozenset(["dicom"]))
    assert {name: pack.reason for name, pack in found.items()} == {"b": None}
    members = members_of(found["b"].keys)
    assert (members.kind, members.files, members.image_name) == ("dicom", ("b/1.dcm", "b/2.DCM"), "b")


def test_a_thumbnail_may_stand_beside_a_folder_of_objects():
    found = packs("b/x/1.dcm", "b/x/2.dcm", "b/x.jpg", folder="b")["x"]
    assert (found.reason, members_of(found.keys).companions) == (None, ("b/x/2.dcm",))


def test_objects_beside_other_images_stand_alone():
    """Nothing says which of them belong together, so nobody guesses."""
    found = packs("b/x.svs", "b/y.dcm", "b/z.dcm", require_thumbnail=False, folder="b")
    assert {name: pack.reason for name, pack in found.items()} == {"x": None, "y": None, "z": None}
    assert packs("b/x.svs", "b/x.dcm", require_thumbnail=False)["x"].reason == "pack-ambiguous"


def test_objects_without_a_suffix_are_objects_where_the_policy_says_so():
    keys = ("b/s/IM0001", "b/s/1.2.840.1", "b/s/readme.doc")
    assert {p.reason for p in packs(*keys, require_thumbnail=False).values()} == {"entry-unknown"}
    found = packs(*keys, require_thumbnail=False, dicom_names="any", folder="b")
    assert {name: (len(p.keys), p.reason) for name, p in found.items()} == {
        "s": (2, None), "readme.doc": (1, "entry-unknown")
    }  # fmt: skip


def test_a_folder_of_too_many_objects_waits():
    """One shard must be done in a time somebody would wait for."""
    found = packs(*(f"b/s/{n}.dcm" for n in range(DICOM_FILES_MAX + 1)), require_thumbnail=False, folder="b")
    assert found["s"].reason == "pack-too-large"


def test_folders_that_differ_in_case_are_for_a_person_to_tell_apart():
    found = packs("b/s/1.dcm", "b/S/1.dcm", require_thumbnail=False, folder="b")
    assert {name: (len(p.keys), p.reason) for name, p in found.items()} == {"s": (2, "pack-ambiguous")}


def test_a_folder_with_the_name_of_a_slide_is_no_second_row_of_it():
    """Two packs of one name were one row, and one of them silently missing."""
    found = packs("b/x.svs", "b/x/1.dcm", require_thumbnail=False, folder="b")
    assert {name: p.reason for name, p in found.items()} == {"x": None, "x/1.dcm": "pack-ambiguous"}


def test_strangers_of_one_name_are_two_packs():
    tally = find_packs([entry("b/1/Thumbs.db"), entry("b/2/Thumbs.db")], require_thumbnail=True, folder="b")
    assert [p.barcode for p in tally.packs] == ["thumbs.db", "2/thumbs.db"]


def test_the_pictures_of_a_vms_slide_begin_with_its_name():
    """`x.jpg` is its first image, not a thumbnail; the pictures of a neighbour stay the neighbour's."""
    keys = ("b/x.vms", "b/x.jpg", "b/x(1,0).jpg", "b/x_macro.jpg", "b/x.opt", "b/x1.svs", "b/x1.jpg", "b/xy.jpg")
    found = packs(*keys, without_thumbnail=frozenset(["vms"]))
    assert {name: p.reason for name, p in found.items()} == {"x": None, "x1": None, "xy": "pack-incomplete"}
    members = members_of(found["x"].keys)
    assert (members.kind, members.main) == ("vms", "b/x.vms")
    assert set(members.companions) == {"b/x.jpg", "b/x(1,0).jpg", "b/x_macro.jpg", "b/x.opt"}
    longest = packs("b/x.vms", "b/x 2.vms", "b/x 2_macro.jpg", require_thumbnail=False)
    assert [len(longest[name].keys) for name in ("x", "x 2")] == [1, 2]


def test_the_thumbnail_of_a_mirax_slide_is_no_file_of_it():
    found = packs("b/x.mrxs", "b/x.jpg", "b/x/Slidedat.ini", "b/x/x.jpg")["x"]
    members = members_of(found.keys)
    assert (members.kind, set(members.companions)) == ("mirax", {"b/x/Slidedat.ini", "b/x/x.jpg"})
    assert packs("b/x.mrxs", "b/x/a.dat", without_thumbnail=frozenset(["mirax"]))["x"].reason is None
    assert packs("b/x.mrxs", "b/x/a.dat")["x"].reason == "pack-incomplete"


def test_a_pack_of_one_file_has_no_companions():
    assert members_of(["b/x.svs", "b/x.jpg"]) == Members("file", "b/x.svs", ())


def test_a_folder_may_be_expected_by_its_last_name():
    files = [entry("b/S1/CT/1.dcm"), entry("b/x.svs")]
    tally = find_packs(files, require_thumbnail=False, folder="b", expected=frozenset({"ct", "x", "y"}))
    assert (tally.missing, tally.undeclared) == (1, 0)


def test_a_scan_of_several_files_has_one_digest_whatever_its_files_are_called():
    """One scan, one number (D19): a renamed copy is no other scan, and a stray file makes none."""
    a, b, c, d = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
    mirax = members_of(["b/x.mrxs", "b/x/1.dat", "b/x/2.dat"])
    other = members_of(["b/y.mrxs", "b/y/2.dat", "b/y/1.dat", "b/y/Thumbs.db"])
    assert scan_digest(mirax, [a, b, c]) == scan_digest(other, [a, c, b, d])
    assert scan_digest(mirax, [a, b, c]) != scan_digest(mirax, [b, a, c])
    objects = members_of(["s/1.dcm", "s/2.dcm", "s/3.dcm"])
    assert scan_digest(objects, [a, b, a]) == scan_digest(members_of(["t/9.dcm", "t/8.dcm"]), [b, a])
    assert scan_digest(members_of(["b/x.svs", "b/x.jpg"]), [a]) == a == scan_digest(members_of(["s/1.dcm"]), [a])


STEMS = ["a", "B", "ä", "c d", "a_1", "a/1", "A/1", "a/a", "DICOMDIR", "1.2"]
SUFFIXES = [".svs", ".jpg", ".JPG", ".csv", ".bin", "", ".mrxs", ".vms", ".dcm", ".opt"]
NAMES = st.lists(
    st.sampled_from(STEMS).flatmap(lambda stem: st.sampled_from(SUFFIXES).map(lambda s: "f/" + stem + s)),
    unique=True,
)


@given(NAMES, st.sampled_from(["any", "suffix"]), st.booleans())
def test_every_entry_is_in_exactly_one_pack_or_counted_as_a_table(keys: list[str], names: str, required: bool):
    """And every pack has a name of its own: two of one name would be one row."""
    tally = find_packs([entry(key) for key in keys], require_thumbnail=required, dicom_names=names, folder="f")
    held = [key for pack in tally.packs for key in pack.keys]
    assert len({pack.barcode for pack in tally.packs}) == len(tally.packs)
    for pack in tally.packs:
        assert set(members_of(pack.keys).files) <= set(pack.keys)
    assert len(held) == len(set(held)) and len(held) + tally.tables == len(keys)
