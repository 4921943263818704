"""Cleanup: what may go, and what must not (I1, I5)."""

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.cleanup import Standing, plan_cleanup

MANIFEST = {"data/N/N.svs": 10, "records.parquet": 3}
ARTIFACTS = {"out/model.pt": "aa", "out/latest": "link:model.pt"}


def judge(*standing: Standing) -> dict[str, tuple[str, str]]:
    return {s.path: (s.action, s.reason) for s in plan_cleanup(list(standing), manifest=MANIFEST, artifacts=ARTIFACTS)}


def test_manifest_and_protected_files_go():
    assert judge(
        Standing("data/N/N.svs", 10, None, unchanged=True),
        Standing("records.parquet", 3, "cc", unchanged=True),
        Standing("manifest.jsonl", 9, "dd", unchanged=True),
        Standing("out/model.pt", 5, "aa"),
        Standing("out/latest", 0, "link:model.pt", "symlink"),
    ) == {
        "data/N/N.svs": ("remove", "in the manifest and unchanged"),
        "records.parquet": ("remove", "in the manifest and unchanged"),
        "manifest.jsonl": ("remove", "written by the seal"),
        "out/model.pt": ("remove", "protected by a checked snapshot"),
        "out/latest": ("remove", "protected by a checked snapshot"),
    }


def test_a_stranger_is_kept():
    assert judge(Standing("data/left.txt", 4, "ee")) == {"data/left.txt": ("stray", "stranger")}


def test_what_changed_after_protection_is_kept():
    """Months of GPU time may hide in the last checkpoint."""
    assert judge(Standing("out/model.pt", 5, "bb")) == {"out/model.pt": ("stray", "changed")}
    assert judge(Standing("out/latest", 0, "link:other.pt", "symlink")) == {"out/latest": ("stray", "changed")}
    assert judge(Standing("data/N/N.svs", 10, "ff", unchanged=False)) == {"data/N/N.svs": ("stray", "changed")}


def test_a_plan_that_read_nothing_says_what_will_be_read():
    """Asked for over HTTP it must not hash terabytes, and must not promise what it does not know; a stranger is one
    whatever is in it."""
    verdicts = judge(
        Standing("data/N/N.svs", 10, None, unread=True),
        Standing("RUN.json", 3, None, unread=True),
        Standing("out/model.pt", 5, None, unread=True),
        Standing("out/new.pt", 5, None, unread=True),
    )
    assert {path: action for path, (action, _) in verdicts.items()} == {
        "data/N/N.svs": "read", "RUN.json": "read", "out/model.pt": "read", "out/new.pt": "stray",
    }  # fmt: skip


def test_a_manifest_path_that_became_a_link_is_kept():
    assert judge(Standing("data/N/N.svs", 0, "link:x", "symlink")) == {"data/N/N.svs": ("stray", "changed")}


def test_a_forged_manifest_file_is_kept():
    assert judge(Standing("manifest.jsonl", 9, "00", unchanged=False)) == {"manifest.jsonl": ("stray", "stranger")}


PATHS = st.sampled_from([*MANIFEST, *ARTIFACTS, "manifest.jsonl", "data/x", "out/y"])
DIGESTS = st.sampled_from(["aa", "bb", "link:model.pt", None])


@given(
    st.lists(
        st.builds(
            Standing,
            PATHS,
            st.sampled_from([0, 3, 10]),
            DIGESTS,
            st.sampled_from(["file", "symlink", "other"]),
            st.booleans(),
        ),
        unique_by=lambda s: s.path,
    )
)
def test_every_entry_gets_one_verdict_and_artifacts_go_only_byte_for_byte(standing: list[Standing]):
    plan = plan_cleanup(standing, manifest=MANIFEST, artifacts=ARTIFACTS)
    assert [s.path for s in plan] == sorted(s.path for s in standing)
    by_path = {s.path: s for s in standing}
    for step in plan:
        entry = by_path[step.path]
        if step.action == "remove" and step.path in ARTIFACTS:
            assert entry.digest == ARTIFACTS[step.path]
        if step.path not in MANIFEST and step.path not in ARTIFACTS and step.path != "manifest.jsonl":
            assert step.action == "stray"
