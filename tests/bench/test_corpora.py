"""What is moved is the same everywhere, and equal trees are told from unequal ones."""

from __future__ import annotations

from pathlib import Path

from bench import corpora


def test_a_corpus_is_the_same_bytes_each_time_it_is_made(tmp_path: Path) -> None:
    """Two runs compare only if they moved the same."""
    made = [corpora.many(tmp_path / name, 250, low=200, high=4000) for name in ("first", "second")]
    assert corpora.digest(made[0].folder) == corpora.digest(made[1].folder)
    assert corpora.count(made[0].folder) == (made[0].files, made[0].size_bytes) == (250, made[1].size_bytes)


def test_no_two_files_of_a_corpus_are_equal(tmp_path: Path) -> None:
    """A tool that shares equal files would win by that alone."""
    made = corpora.many(tmp_path / "many", 120, low=200, high=300)
    contents = {Path(path).read_bytes() for path in corpora.files_of(made.folder)}
    assert len(contents) == 120


def test_a_changed_byte_and_a_changed_name_change_the_digest_of_a_tree(tmp_path: Path) -> None:
    """Ours is compared by it: it must see what a broken engine would do."""
    folder = corpora.slides(tmp_path / "slides", [100_000]).folder
    before = corpora.digest(folder)
    slide = folder / "slide00.svs"
    content = bytearray(slide.read_bytes())
    content[777] ^= 1
    slide.write_bytes(content)
    flipped = corpora.digest(folder)
    content[777] ^= 1
    slide.write_bytes(content)
    slide.rename(folder / "other.svs")
    assert len({before, flipped, corpora.digest(folder)}) == 3


def test_a_tiers_control_folder_is_no_part_of_what_was_moved(tmp_path: Path) -> None:
    folder = corpora.slides(tmp_path / "slides", [1000]).folder
    before, counted = corpora.digest(folder), corpora.count(folder)
    (folder / ".mover").mkdir()
    (folder / ".mover" / "tier.json").write_text("{}")
    assert (corpora.digest(folder), corpora.count(folder)) == (before, counted)


def test_a_tree_of_names_holds_as_many_as_asked(tmp_path: Path) -> None:
    made = corpora.empty(tmp_path / "names", 350)
    assert corpora.count(made.folder) == (350, 0)


def test_the_next_version_of_a_checkpoint_changes_half_the_shards_and_touches_nothing_else(tmp_path: Path) -> None:
    """A tool that trusts fingerprints must find the rest exactly as it left it, change times included."""
    made = corpora.checkpoint(tmp_path / "tree", 1_600_000)
    made.put(1)
    folder = made.corpus.folder
    first = {path.name: (path.stat().st_ctime_ns, path.read_bytes()) for path in folder.iterdir()}

    made.put(2)

    second = {path.name: (path.stat().st_ctime_ns, path.read_bytes()) for path in folder.iterdir()}
    changed = [name for name in first if first[name][1] != second[name][1]]
    assert sorted(changed) == [f"shard{number:02}.pt" for number in range(0, 16, 2)]
    assert {name for name in first if first[name] == second[name]} == set(first) - set(changed)
    grown, before = second["shard00.pt"][1], first["shard00.pt"][1]
    same = sum(one == other for one, other in zip(grown[1008:], before[1000:], strict=True))
    assert grown[1000:1008] == b"inserted" and 0.94 < same / len(before) < 0.97

    made.put(1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: one for name, (_, one) in first.items()
    }


def test_a_file_of_islands_is_as_long_as_asked_and_takes_little_room(tmp_path: Path) -> None:
    corpora.islands(tmp_path / "one" / "archive.bin", 130 << 20)
    facts = (tmp_path / "one" / "archive.bin").stat()
    assert facts.st_size == 130 << 20 and facts.st_blocks * 512 <= 8 << 20
