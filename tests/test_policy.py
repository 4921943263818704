"""Policies: YAML as people mean it, and every mistake with its file, line and column."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest

from mover import policy
from mover.demo import tables as demo
from mover.errors import Conflict, NotFound, PolicyInvalid, RequestInvalid
from mover.model.policy import CleanPolicy, ImagesPolicy, RecordsPolicy, StagePolicy
from mover.model.policywords import WORDS

IMAGES = "kind: images\nname: images\nfrom: intake\nto: archive\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def mistakes(folder: Path) -> list[tuple[str, str]]:
    with pytest.raises(PolicyInvalid) as caught:
        policy.load_policies(folder)
    return [(str(one["where"]).rpartition("/")[2], str(one["what"])) for one in caught.value.details]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("22:30", "22:30"), ("1:30", "1:30"), ("010", 10),
        ("0o10", 8), ("0x1F", 31), ("1_000", "1_000"), ("true", True), ("~", None), ("null", None), ("1e3", 1000.0),
        (".5", 0.5), ("2026-01-02", "2026-01-02"), ("<<", "<<"), ("'10'", "10"), ("=", "="), ("!!str 10", "10"),
    ],
)  # fmt: skip
def test_words_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    """A maintenance window of 22:30 once became 1350, and Norway became false."""
    found = policy.parse(f"key: {text}\n", file="f").value["key"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:1", "stands twice"),
        ("a: !!python/name:os.system x\n", "f:1:4", "not allowed"),
        ("a: !!int x\n", "f:1:4", "not allowed"),
        ("? [a]\n: b\n", "f:1:3", "a key is a word"),
        ("a: 1\n---\nb: 2\n", "f:2:1", "second document"),
        ("", "f:1:1", "empty"),
        ("a: [1, 2\nb: 3\n", "f:2:2", "not YAML"),
        ("a: \x07\n", "f:1:1", "not YAML"),
        ("a: *nobody\n", "f:1:4", "not YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_where_it_stands(text: str, where: str, what: str) -> None:
    with pytest.raises(PolicyInvalid, match=what) as caught:
        policy.parse(text, file="f")
    assert caught.value.where == where


def test_bombs_are_refused_before_they_grow(tmp_path: Path) -> None:
    """Nine levels of aliases take gigabytes when printed; a deep nest exhausts the stack (D16)."""
    aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
    )
    for text in (aliases, "[" * 20_000 + "]" * 20_000, "a: &a [*a]\n", "{a: " * 5000):
        with pytest.raises(PolicyInvalid):
            policy.parse(text, file="f")
    (tmp_path / "big.yaml").write_bytes(b"#" * (policy.FILE_LIMIT_BYTES + 1))
    with pytest.raises(PolicyInvalid, match="larger"):
        policy.load_policies(tmp_path)
    (tmp_path / "big.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(PolicyInvalid, match="UTF-8"):
        policy.load_policies(tmp_path)


def test_a_few_aliases_are_fine() -> None:
    assert policy.parse("a: &x [1]\nb: *x\n", file="f").value == {"a": [1], "b": [1]}


def test_every_mistake_of_every_file_is_shown_at_once(tmp_path: Path) -> None:
    """A person mends ten mistakes in one go, not in ten runs."""
    write(
        tmp_path,
        a="kind: images\nname: Images\nfrom: intake\nthumbnail_edge_px: big\nacept: [aperio]\n",
        b="kind: protect\nname: protect\nfrom: flash\nto: protect\nkeep: {last: many, weekly: 1.5}\n",
        c="kind: cleaner\nname: clean\n",
        d="name: lost\n",
        e="name: [\n",
    )
    found = mistakes(tmp_path)
    assert [where for where, _ in found] == [
        "a.yaml:2:7", "a.yaml:4:20", "a.yaml:5:1", "a.yaml:1:1", "b.yaml:5:14", "b.yaml:5:28",
        "c.yaml:1:7", "d.yaml:1:1", "e.yaml:2:1",
    ]  # fmt: skip
    words = " ".join(what for _, what in found)
    assert "did you mean `accept`?" in words and "`to` is missing" in words and "Expected `int`, got `str`" in words
    assert "budget, clean, deid, dump, images, move, protect, records, stage, verify" in words


def test_a_mistake_in_a_column_rule_points_at_the_cell(tmp_path: Path) -> None:
    """Column rules are nested four deep; the place must still be exact."""
    write(
        tmp_path,
        r="""kind: records
name: records
from: intake
tables:
  - name: cases
    columns:
      file: {class: image}
      sex: {class: enumeration}
      age: {class: age, quasi: maybe}
""",
    )
    assert [where for where, _ in mistakes(tmp_path)] == ["r.yaml:8:20", "r.yaml:9:32"]


def test_contradictions_of_a_records_policy_are_found_when_it_is_loaded(tmp_path: Path) -> None:
    """Not when the first table arrives at night."""
    write(
        tmp_path,
        r="""kind: records
name: records
from: intake
tables:
  - name: cases
    columns:
      file: {class: image}
      sex: {class: enum}
  - name: lost
    one_row_per: case
    columns:
      case: {class: case, pattern: "("}
""",
    )
    found = dict(mistakes(tmp_path))
    assert "r.yaml:8:12" in found and "r.yaml:12:13" in found
    assert any("reaches no image" in what for what in found.values())


def test_one_name_is_one_policy(tmp_path: Path) -> None:
    write(tmp_path, a=IMAGES, b=IMAGES)
    assert mistakes(tmp_path) == [("b.yaml:2:7", "the name images is taken by a.yaml")]


def test_the_default_is_the_only_one_or_the_one_named_like_its_kind(tmp_path: Path) -> None:
    """Which policy a request without one follows is never a guess."""
    other = IMAGES.replace("name: images", "name: special")
    assert policy.load_policies(write(tmp_path, a=other)).default(ImagesPolicy).name == "special"
    book = policy.load_policies(write(tmp_path, b=IMAGES))
    assert book.default(ImagesPolicy).name == "images"
    assert book.get("special", ImagesPolicy).name == "special"
    with pytest.raises(RequestInvalid, match="another step"):
        book.get("special", StagePolicy)
    with pytest.raises(NotFound, match="no policy"):
        book.get("nobody", ImagesPolicy)
    with pytest.raises(RequestInvalid):
        book.default(CleanPolicy)
    ambiguous = write(tmp_path, b=other.replace("special", "third"))
    with pytest.raises(RequestInvalid, match="none is the default"):
        policy.load_policies(ambiguous).default(ImagesPolicy)


def test_the_digest_names_the_text(tmp_path: Path) -> None:
    """Which version of a policy made a file must be answerable years later."""
    first = policy.load_policies(write(tmp_path, a=IMAGES)).all()[0]
    second = policy.load_policies(write(tmp_path, a=IMAGES + "# a word\n")).all()[0]
    assert first.text == IMAGES and first.digest != second.digest and len(first.digest) == 64


def test_the_shipped_policies_load_and_cover_the_five_steps() -> None:
    book = policy.load_policies(policy.default_folder())
    kinds = {one.kind for one in book.all()}
    assert kinds >= {"budget", "clean", "images", "protect", "records", "stage", "verify"}


def test_the_shipped_records_policy_lists_the_demo_hospitals_columns() -> None:
    """An unlisted column stops the file: the demo's tables and the example must agree, word for word."""
    book = policy.load_policies(policy.default_folder())
    rules = {table.name: table.columns for table in book.default(RecordsPolicy).tables}
    assert {name: tuple(columns) for name, columns in rules.items()} == demo.COLUMNS
    for name, columns in rules.items():
        formats = {rule.format for rule in columns.values() if rule.rule == "date"}
        assert formats and all(str(given).startswith(demo.DIALECTS[name].date) for given in formats)


def test_the_shipped_images_policy_accepts_families_that_scanners_know() -> None:
    """A misspelt family would quarantine every slide of it."""
    accepted = policy.load_policies(policy.default_folder()).default(ImagesPolicy).accept
    assert accepted == ImagesPolicy(name="x1", source="a1", archive="b1").accept


def test_the_published_schema_is_made_from_the_types() -> None:
    """Editors complete from it; a stale one teaches mistakes. Remake: python -m mover.policy."""
    assert (policy.default_folder() / "schema.json").read_text() == policy.json_schema()


def test_every_field_of_the_schema_has_a_sentence_and_none_is_of_a_field_that_is_gone() -> None:
    """Forms are made of it: a field without words is a riddle to a night shift."""
    shapes = {name: one.get("properties", {}) for name, one in json.loads(policy.json_schema())["$defs"].items()}
    without = {"TableRule", "ColumnRule"}  # these stand in the text only
    silent = [
        f"{shape}.{field}"
        for shape, fields in shapes.items()
        for field, said in fields.items()
        if "description" not in said and field != "kind" and shape not in without
    ]
    assert silent == []
    known = {word for shape, fields in shapes.items() for field in fields for word in (field, f"{shape}.{field}")}
    assert set(WORDS) <= known


def test_a_missing_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="not there"):
        policy.load_policies(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("windows:\n  - {from: 22:30, to: 06:00}\n", 5, "time_zone"),
        ("time_zone: Europe/Bärlin\n", 4, "not known"),
        ("time_zone: UTC\nwindows:\n  - {from: 22:60, to: 06:00}\n", 6, "regex"),
        ("time_zone: UTC\nwindows:\n  - {days: [], from: 22:00, to: 06:00}\n", 6, "never open"),
        ("read_bytes_s: 0\n", 4, ">= 1"),
        ("read_bytes_s: fast\n", 4, "'fast'"),
    ],
)
def test_a_budget_that_nobody_could_keep_is_refused_where_it_stands(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    """A window in nobody's clock, an hour that does not exist, a limit of nothing."""
    with pytest.raises(PolicyInvalid) as refused:
        policy.load_policies(write(tmp_path, a=f"kind: budget\nname: nas\ntier: nas\n{text}"))
    [first, *_] = refused.value.details
    assert what in str(first["what"]) and f":{line}:" in str(first["where"])


def test_a_tier_has_one_budget(tmp_path: Path) -> None:
    """Of two, nobody could say which holds."""
    texts = {name: f"kind: budget\nname: {name}{name}\ntier: nas\n" for name in ("a", "b")}
    with pytest.raises(PolicyInvalid, match="already"):
        policy.load_policies(write(tmp_path, **texts))


def test_half_past_ten_stays_a_time_and_not_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 22:30 as 1350."""
    text = "kind: budget\nname: nas\ntier: nas\ntime_zone: UTC\nwindows: [{from: 22:30, to: 06:00}]\n"
    [one] = policy.load_policies(write(tmp_path, a=text)).all()
    assert one.policy.windows[0].begin == "22:30"


COMMENTED = """# ours
kind: records
name: records
from: intake
tables:
  - name: imagery
    columns: {file: {class: image}, "Größe": {class: drop}}  # in one line
  - name: outcomes   # from the registry
    one_row_per: case
    columns:
      case: {class: case}
      # free text never leaves
      Bemerkung:
        class: enum
        values: [a,
                 b]  # words

# the end
"""


@pytest.mark.parametrize(
    ("table", "column", "came"),
    [
        ("outcomes", None, ["    others: drop"]),
        ("outcomes", "ward phone", ["      ward phone: {class: drop}"]),
        ("outcomes", "Wärd: 7 #x", ['      "Wärd: 7 #x": {class: drop}']),
        ("imagery", None, ["    others: drop"]),
    ],
)
def test_a_rule_for_a_column_is_one_line_more_and_nothing_else(table: str, column: str | None, came: list[str]) -> None:
    """What somebody wrote stays: comments, quotes, order. What came is what was meant."""
    text = policy.with_column(COMMENTED, table, column)
    diff = [line for line in difflib.ndiff(COMMENTED.splitlines(), text.splitlines()) if line[0] in "+-"]
    assert diff == [f"+ {line}" for line in came]
    [before, after] = [policy.parse(one, file="x").value["tables"] for one in (COMMENTED, text)]
    at = [one["name"] for one in before].index(table)
    if column is None:
        before[at]["others"] = "drop"
    else:
        before[at]["columns"][column] = {"class": "drop"}
    assert after == before


def test_a_rule_fits_between_braces_takes_the_place_of_refusal_and_never_lands_elsewhere() -> None:
    flow = policy.parse(policy.with_column(COMMENTED, "imagery", "n"), file="x").value["tables"][0]["columns"]
    assert list(flow) == ["file", "Größe", "n"]
    refusing = COMMENTED.replace("one_row_per: case", "others: refuse")
    assert policy.with_column(refusing, "outcomes", None) == refusing.replace("refuse", "drop")
    empty = "kind: records\ntables: [{name: a, columns: {}}]"
    assert policy.with_column(empty, "a", "null") == empty.replace("{}", '{"null": {class: drop}}')
    for text, table in ((COMMENTED, "cases"), ("kind: records\n", "a"), ("kind: records\ntables: [{name: a}]", "a")):
        with pytest.raises(Conflict):
            policy.with_column(text, table, "x")


@pytest.mark.parametrize("kind", ["images", "records"])
def test_a_reason_code_that_is_misspelt_leaves_nothing_to_one_person(tmp_path: Path, kind: str) -> None:
    """Two were meant to look; a word that nothing ever waits for is told where it stands."""
    text = policy.templates()[kind] + "reviewers_of: {place-unknown: 2, place-unkown: 2}\n"
    [(where, what)] = mistakes(write(tmp_path, one=text))
    assert what == "nothing waits in quarantine for place-unkown"
    assert where.startswith(f"one.yaml:{len(text.splitlines())}:")


def test_every_kind_has_a_text_to_begin_with_that_is_one_of_it_without_a_mistake(tmp_path: Path) -> None:
    """Nobody begins with an empty page: each is explained by its comments, and followed as it stands."""
    found = policy.templates()
    assert set(found) == set(json.loads(policy.json_schema())["discriminator"]["mapping"])
    for kind, text in found.items():
        assert text.startswith("#") and text.count("#") > 1, kind
        alone = tmp_path / kind
        alone.mkdir()
        [loaded] = policy.load_policies(write(alone, policy=text)).all()
        assert loaded.kind == kind
