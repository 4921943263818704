"""The one reader of YAML: policies and settings.

YAML 1.2's core words only, so that `no` stays a word, `010` is ten and `22:30` is text. Duplicate keys, tags, bombs
of aliases and deep nesting are refused. Every mistake of a file is reported, each as file:line:column: values are
checked section by section, because a validator that stops at its first error makes a person run it ten times.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, cast
from zoneinfo import available_timezones

import msgspec
import yaml
from blake3 import blake3
from msgspec import Struct

from mover.decide.profiles import profile_problems
from mover.decide.quarantine import reason_codes
from mover.decide.schedules import cron_problem
from mover.decide.tables import check_policy
from mover.errors import ConfigError, Conflict, ExpressionInvalid, NotFound, PolicyInvalid, RequestInvalid
from mover.model.policy import (
    BudgetPolicy,
    CleanPolicy,
    DeidPolicy,
    DumpPolicy,
    ImagesPolicy,
    MovePolicy,
    Policy,
    ProtectPolicy,
    RecordsPolicy,
)
from mover.model.policywords import WORDS

# beside the policies of a folder: de-identification profiles, which are many and belong together
PROFILES = "deid"
FILE_LIMIT_BYTES = 1 << 20
FILES_LIMIT = 1000
DEPTH_LIMIT = 32
# values after aliases are followed: nine levels of nine aliases each would be 387 million
VALUES_LIMIT = 50_000
ERRORS_LIMIT = 100

Path_ = tuple[str | int, ...]
Place = tuple[int, int]
P = TypeVar("P")
S = TypeVar("S")


class Mistake(Struct, frozen=True):
    """One thing wrong in a file, where a person finds it. Lines and columns begin at 1."""

    file: str
    line: int
    column: int
    what: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Loaded(Struct, frozen=True):
    """A policy with the text that said it; the digest names the version in the catalog and the audit."""

    policy: Policy
    file: str
    text: str
    digest: str

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def kind(self) -> str:
        return cast(str, type(self.policy).__struct_config__.tag)


class PolicyBook:
    """All policies of a folder. Rooms hold the book and ask it each time: what it says may change while they do."""

    def __init__(self, loaded: list[Loaded]) -> None:
        self._by_name = {one.name: one for one in loaded}

    def use(self, other: PolicyBook) -> None:
        """From now on what the other says, all of it at once."""
        self._by_name = other._by_name

    def of(self, kind: type[P]) -> Sequence[P]:
        """Those of one kind; whoever keeps it has those that the book has by then."""
        return _OfAKind(self, kind)

    def all(self) -> list[Loaded]:
        return [self._by_name[name] for name in sorted(self._by_name)]

    def loaded(self, name: str) -> Loaded:
        if name not in self._by_name:
            raise NotFound(f"there is no policy {name}", hint=_known("policies", self._by_name))
        return self._by_name[name]

    def get(self, name: str, kind: type[P]) -> P:
        """The policy of this name; RequestInvalid when it is for another step."""
        policy = self.loaded(name).policy
        if not isinstance(policy, kind):
            raise RequestInvalid(f"the policy {name} is of kind {self.loaded(name).kind}, which is another step")
        return policy

    def default(self, kind: type[P]) -> P:
        """The only policy of its kind, or of several the one that is named like the kind."""
        found = [one for one in self.all() if isinstance(one.policy, kind)]
        word = str(kind.__struct_config__.tag)  # type: ignore[attr-defined]
        chosen = [one for one in found if one.name == word] if len(found) > 1 else found
        if not chosen:
            raise RequestInvalid(
                f"there are {len(found)} policies of kind {word}, and none is the default",
                hint=f"Name one in the request, or name the default one `{word}`.",
            )
        return cast(P, chosen[0].policy)

    def profile(self, name: str | None = None) -> DeidPolicy:
        """The de-identification profile of this name; without a name the one called `default`, or where there is
        none the defaults, which are the narrowest. A name that is not there is NotFound, never the default."""
        if name is None and "default" not in self._by_name:
            return DeidPolicy()
        return self.get(name or "default", DeidPolicy)


class _OfAKind(Sequence[P]):
    def __init__(self, book: PolicyBook, kind: type[P]) -> None:
        self._book, self._kind = book, kind

    def _now(self) -> list[P]:
        return [one.policy for one in self._book.all() if isinstance(one.policy, self._kind)]

    def __iter__(self) -> Iterator[P]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __getitem__(self, at: Any) -> Any:
        return self._now()[at]


def load_profile(path: Path) -> Loaded:
    """The one profile in this file; PolicyInvalid with every mistake's place otherwise."""
    [loaded] = load_files([path]).all()
    if not isinstance(loaded.policy, DeidPolicy):
        raise PolicyInvalid(f"the policy {loaded.name} is of kind {loaded.kind}, not deid", where=f"{path}:1:1")
    return loaded


def default_folder() -> Path:
    """The policies that came with this software: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    for folder in (package / "_policies", package.parent / "policies"):
        if folder.is_dir():
            return folder
    raise PolicyInvalid("the policies that ship with this software are not there", where=str(package))


def load_policies(folder: Path, *, instead: Mapping[Path, str | None] | None = None) -> PolicyBook:
    """Every `.yaml` in the folder and in its `deid/`, and of some files `instead` this text, or none. All mistakes of
    all files are in the error's `details`."""
    if not folder.is_dir():
        raise PolicyInvalid("the folder of policies is not there", where=str(folder))
    files = _yaml_files(folder) + (_yaml_files(folder / PROFILES) if (folder / PROFILES).is_dir() else [])
    texts = {path: text for path, text in (instead or {}).items() if text is not None}
    files = sorted({*files, *texts} - ((instead or {}).keys() - texts.keys()), key=lambda path: (path.parent, path))
    if len(files) > FILES_LIMIT:
        raise PolicyInvalid(f"more than {FILES_LIMIT} policies", where=str(folder))
    return load_files(files, texts=texts)


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))


def load_files(files: list[Path], *, texts: Mapping[Path, str] | None = None) -> PolicyBook:
    """Just these files, or the texts in their place. All mistakes of all of them are in the error's `details`."""
    loaded: list[Loaded] = []
    mistakes: list[Mistake] = []
    for path in files:
        try:
            document = parse(texts[path], file=str(path)) if texts and path in texts else read(path)
        except PolicyInvalid as error:
            mistakes += [_unreadable(path, error)]
            continue
        policy, wrong = document.check(Policy, then=_more)
        mistakes += wrong
        if policy is not None:
            one = Loaded(policy=policy, file=str(path), text=document.text, digest=digest_of(document.text))
            mistakes += _twice(one, loaded, document) + _two_budgets(one, loaded, document)
            loaded.append(one)
    refuse(mistakes, PolicyInvalid)
    return PolicyBook(loaded)


def digest_of(text: str) -> str:
    """Names a version of a policy in the catalog and the audit."""
    return blake3(text.encode()).hexdigest()


def _unreadable(path: Path, error: PolicyInvalid) -> Mistake:
    line, column = (int(part) if part.isdigit() else 1 for part in error.where.split(":")[-2:])
    return Mistake(str(path), line, column, error.what)


def _twice(one: Loaded, others: list[Loaded], document: Document) -> list[Mistake]:
    return [
        document.mistake(("name",), f"the name {one.name} is taken by {Path(other.file).name}")
        for other in others
        if other.name == one.name
    ]


def _two_budgets(one: Loaded, others: list[Loaded], document: Document) -> list[Mistake]:
    """A tier has one budget: of two, nobody could say which holds."""
    if not isinstance(one.policy, BudgetPolicy):
        return []
    what = f"of {one.policy.tier}" if one.policy.tier else "without a tier"
    return [
        document.mistake(("tier",), f"there is a budget {what} in {Path(other.file).name} already")
        for other in others
        if isinstance(other.policy, BudgetPolicy) and other.policy.tier == one.policy.tier
    ]


def _about_time(policy: BudgetPolicy) -> Iterator[tuple[Path_, str]]:
    """The wall clock of a window is somebody's: which one is never guessed."""
    if policy.windows and policy.time_zone is None:
        yield ("windows",), "`time_zone` is missing: whose clock are the windows in? Such as `Europe/Berlin`"
    if policy.time_zone is not None and policy.time_zone not in available_timezones():
        yield ("time_zone",), f"the time zone {policy.time_zone} is not known"
    for index, window in enumerate(policy.windows):
        if not window.days:
            yield ("windows", index, "days"), "a window without days is never open"


def _about_dump(policy: DumpPolicy) -> Iterator[tuple[Path_, str]]:
    if len(set(policy.targets)) == 1:
        yield ("to", 1), "two different tiers: one that burns down must not take the other along"
    if policy.time_zone not in available_timezones():
        yield ("time_zone",), f"the time zone {policy.time_zone} is not known"
    if policy.keep.none:
        yield ("keep",), "without any rule dumps would be kept for ever"


def _about_hooks(policy: CleanPolicy) -> Iterator[tuple[Path_, str]]:
    """Each is run once in its chain, and told by its name."""
    for key, rules in (("before_clean", policy.before_clean), ("after_clean", policy.after_clean)):
        names = [rule.name for rule in rules]
        for index, name in enumerate(names):
            if name in names[:index]:
                yield (key, index, "name"), f"the hook {name} stands twice"


def _about_folders(policy: ProtectPolicy) -> Iterator[tuple[Path_, str]]:
    for index, rule in enumerate(policy.folders):
        here: Path_ = ("folders", index)
        if rule.name in {other.name for other in policy.folders[:index]}:
            yield (*here, "name"), f"there is a folder {rule.name} already"
        if rule.time_zone is not None and rule.time_zone not in available_timezones():
            yield (*here, "time_zone"), f"the time zone {rule.time_zone} is not known"
        if rule.cron is not None and (problem := cron_problem(rule.cron)):
            yield (*here, "cron"), problem


def _about_protect(policy: ProtectPolicy) -> Iterator[tuple[Path_, str]]:
    yield from _about_folders(policy)
    if policy.copy is not None and policy.copy.repository == policy.repository:
        yield ("copy", "to"), "a tier is no second place beside itself"
    if policy.lock_s is not None and policy.append_only is not None:
        yield ("append_only",), "a bucket has `lock_s`, a folder `append_only`; a tier is one of the two"


def _about_reviewers(policy: ImagesPolicy | RecordsPolicy) -> Iterator[tuple[Path_, str]]:
    """A code that is misspelt would leave to one person what two were meant for."""
    for code in policy.reviewers_of.keys() - reason_codes():
        yield ("reviewers_of", code), f"nothing waits in quarantine for {code}"


def _more(policy: Policy) -> Iterator[tuple[Path_, str]]:
    """What types cannot say. The judgement is the one the workflow makes; here its words get a place."""
    if isinstance(policy, ImagesPolicy | RecordsPolicy):
        yield from _about_reviewers(policy)
    if isinstance(policy, BudgetPolicy):
        yield from _about_time(policy)
    if isinstance(policy, DumpPolicy):
        yield from _about_dump(policy)
    if isinstance(policy, ProtectPolicy):
        yield from _about_protect(policy)
    if isinstance(policy, CleanPolicy):
        yield from _about_hooks(policy)
    if isinstance(policy, MovePolicy) and policy.when is not None:
        # it brings a parser of 9 MB, and whoever waits for a run from a scheduler reads a settings file and no policy
        from mover.decide.moving import parse_when

        try:
            parse_when(policy.when)
        except ExpressionInvalid as error:
            yield ("when",), f"{error.what} ({error.where})"
    if isinstance(policy, DeidPolicy):
        yield from profile_problems(policy)
    if not isinstance(policy, RecordsPolicy):
        return
    try:
        check_policy(policy)
    except PolicyInvalid as error:
        for problem in error.details:
            yield _place_of(policy, str(problem["problem"])), str(problem["problem"])


def _place_of(policy: RecordsPolicy, problem: str) -> Path_:
    for index, table in enumerate(policy.tables):
        if not problem.startswith(f"table {table.name}: "):
            continue
        for column in table.columns:
            if problem.startswith(f"table {table.name}: column {column}: "):
                return ("tables", index, "columns", column)
        return ("tables", index)
    return ("tables",)


# --- reading a file ----------------------------------------------------------------------------------------


class Document(Struct, frozen=True):
    """A file as plain values, and where each of them stands."""

    file: str
    text: str
    value: Any
    places: dict[Path_, Place]

    def mistake(self, path: Path_, what: str) -> Mistake:
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (1, 1))
        return Mistake(self.file, line, column, what)

    def check(
        self, shape: Any, *, then: Callable[[Any], Iterator[tuple[Path_, str]]] | None = None
    ) -> tuple[Any, list[Mistake]]:
        """The value in its shape, or None and every mistake. `then` says what types cannot."""
        try:
            value = msgspec.convert(self.value, shape, strict=True)
        except msgspec.ValidationError:
            found = list(_mistakes(self.value, shape, ()))
            return None, [self.mistake(path, what) for path, what in found[:ERRORS_LIMIT]]
        wrong = [self.mistake(path, what) for path, what in (then(value) if then else ())]
        return (None if wrong else value), wrong


def read_as(
    path: Path, kind: type[S], *, then: Callable[[S], Iterator[tuple[Path_, str]]], error: type[ConfigError]
) -> S:
    """The file as one value of this kind, or `error` with all its mistakes and their places."""
    written, mistakes = read(path, error=error).check(kind, then=then)
    refuse(mistakes, error)
    return written


def refuse(mistakes: list[Mistake], error: type[ConfigError]) -> None:
    """Raises `error` with all of them when there are any; the first one is its `where`."""
    if not mistakes:
        return
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    raise error(
        mistakes[0].what + more,
        where=mistakes[0].where,
        details=[{"where": one.where, "what": one.what} for one in mistakes],
    )


def read(path: Path, *, error: type[ConfigError] = PolicyInvalid) -> Document:
    """The file as values with places, or `error` when it is not one bounded YAML document."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
        if len(data) > FILE_LIMIT_BYTES:
            raise _one(error, f"the file is larger than {FILE_LIMIT_BYTES} bytes", f"{path}:1:1")
        text = data.decode("utf-8-sig")
    except OSError as cause:
        raise _one(error, "the file cannot be read", f"{path}:1:1") from cause
    except UnicodeDecodeError as cause:
        raise _one(error, "the file is not UTF-8", f"{path}:1:1") from cause
    return parse(text, file=str(path), error=error)


def parse(text: str, *, file: str, error: type[ConfigError] = PolicyInvalid) -> Document:
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=_CoreLoader)
        if node is None:
            raise _At(None, "the file is empty")
        reader = _Reader()
        value = reader.value(node, ())
    except _At as cause:
        raise _one(error, cause.what, _where(file, cause.mark)) from None
    except yaml.MarkedYAMLError as cause:
        what = " ".join(part for part in (cause.context, cause.problem) if part)
        raise _one(error, f"not YAML: {what}", _where(file, cause.problem_mark)) from cause
    except yaml.YAMLError as cause:
        raise _one(error, "not YAML: a character that may not stand there", f"{file}:1:1") from cause
    return Document(file=file, text=text, value=value, places=reader.places)


def templates() -> dict[str, str]:
    """For each kind the text that ships with this software, comments and all: a policy to begin with."""
    folder = default_folder()
    files = [*sorted(folder.glob("*.yaml")), folder / "deid" / "default.yaml", *sorted(folder.glob("examples/*.yaml"))]
    found: dict[str, str] = {}
    for text in (file.read_text(encoding="utf-8") for file in files):
        found.setdefault(str(parse(text, file="template").value["kind"]), text)
    return found


def with_column(text: str, table: str, column: str | None) -> str:
    """The text of a policy with one rule more for a table: this column is dropped, or, without one, whatever the table
    does not list. All else stays as somebody wrote it. Raises Conflict where there is no such table."""
    parse(text, file="policy")  # bounded, and of our YAML
    tables = _under(yaml.compose(text, Loader=_CoreLoader), "tables")
    found = next((one for one in tables.value if getattr(_under(one, "name"), "value", None) == table), None) \
        if isinstance(tables, yaml.SequenceNode) else None  # fmt: skip
    if found is None:
        raise Conflict("the policy has no such table", where=table)
    if column is not None:
        columns = _under(found, "columns")
        if not isinstance(columns, yaml.MappingNode):
            raise Conflict("the policy's table has no columns", where=table)
        plain = _PLAIN_KEY.match(column) and not _NULL.match(column) and not _BOOL.match(column)
        name = column if plain else json.dumps(column, ensure_ascii=False)
        return _inserted(text, columns, columns.value[-1][1] if columns.value else None, f"{name}: {{class: drop}}")
    others = _under(found, "others")
    if others is not None:
        return text[: others.start_mark.index] + "drop" + text[others.end_mark.index :]
    return _inserted(text, found, _under(found, "name"), "others: drop")


_PLAIN_KEY = re.compile(r"^[A-Za-z][A-Za-z_ ]*[A-Za-z]$")


def _under(node: Any, key: str) -> Any:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _inserted(text: str, into: yaml.MappingNode, after: yaml.Node | None, line: str) -> str:
    """Behind `after`: on its line between braces, on a line of its own else."""
    if after is None or into.flow_style:
        at = into.start_mark.index + 1 if after is None else after.end_mark.index
        return f"{text[:at]}{', ' if after else ''}{line}{text[at:]}"
    end = text.find("\n", _last(after).end_mark.index)
    at = len(text) if end < 0 else end
    return f"{text[:at]}\n{' ' * into.value[0][0].start_mark.column}{line}{text[at:]}"


def _last(node: yaml.Node) -> yaml.Node:
    """The innermost node that ends a block: a block itself ends where the next thing begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node


def _one(error: type[ConfigError], what: str, where: str) -> ConfigError:
    return error(what, where=where, details=[{"where": where, "what": what}])


class _CoreLoader(yaml.CSafeLoader):
    """YAML 1.2's core schema (10.3.2) in place of 1.1's guesses."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_TAG = "tag:yaml.org,2002:"
for _word, _pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
    _CoreLoader.add_implicit_resolver(_TAG + _word, _pattern, None)


class _At(Exception):
    """A mistake with the place the YAML library gave it."""

    def __init__(self, mark: Any, what: str) -> None:
        super().__init__(what)
        self.mark = mark
        self.what = what


def _where(file: str, mark: Any) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}" if mark is not None else f"{file}:1:1"


def _check_depth(text: str) -> None:
    """On events, which come without recursion: composing a deep file would exhaust the stack."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_CoreLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > DEPTH_LIMIT:
            raise _At(event.start_mark, f"nested deeper than {DEPTH_LIMIT}")
        if documents > 1:
            raise _At(event.start_mark, "a second document in one file")


class _Reader:
    """Nodes to plain values, with the place of each by its path."""

    def __init__(self) -> None:
        self.places: dict[Path_, Place] = {}
        self._count = 0

    def value(self, node: yaml.Node, path: Path_) -> Any:
        self._count += 1
        if self._count > VALUES_LIMIT or len(path) > DEPTH_LIMIT:
            raise _At(node.start_mark, "more values than a file may have; are aliases nested?")
        self.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            _expect(node, "seq")
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # compose yields these three kinds
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        _expect(node, "map")
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _At(key_node.start_mark, "a key is a word")
            key = str(key_node.value)
            if key in found:
                raise _At(key_node.start_mark, f"the key {key} stands twice")
            found[key] = self.value(value_node, (*path, key))
            self.places[(*path, key, "#key")] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        return found


def _expect(node: yaml.Node, word: str) -> None:
    if node.tag != _TAG + word:
        raise _At(node.start_mark, f"the tag {node.tag} is not allowed")


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    match node.tag.removeprefix(_TAG):
        case "str" | "!":
            return text
        case "null" if _NULL.match(text):
            return None
        case "bool" if _BOOL.match(text):
            return text.lower() == "true"
        case "int" if _INT.match(text) and len(text) <= 20:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        case "float" if _FLOAT.match(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise _At(node.start_mark, f"the tag {node.tag} is not allowed here")


# --- every mistake, not only the first ---------------------------------------------------------------------


def _mistakes(value: Any, shape: Any, path: Path_) -> Iterator[tuple[Path_, str]]:
    """Where `value` does not fit `shape`, at the deepest place that can be named."""
    try:
        msgspec.convert(value, shape, strict=True)
    except msgspec.ValidationError as error:
        inner = list(_inside(value, shape, path))
        yield from inner or [(path, str(error).partition(" - at ")[0])]


def _inside(value: Any, shape: Any, path: Path_) -> Iterator[tuple[Path_, str]]:
    shape = _bare(shape)
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin in (Union, types.UnionType):
        yield from _inside_union(value, arguments, path)
    elif isinstance(shape, type) and issubclass(shape, Struct) and isinstance(value, dict):
        yield from _inside_struct(value, shape, path)
    elif origin in (list, tuple) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _mistakes(item, arguments[0], (*path, index))
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from ((at + ("#key",), what) for at, what in _mistakes(key, arguments[0], (*path, key)))
            yield from _mistakes(item, arguments[1], (*path, key))


def _inside_union(value: Any, shapes: tuple[Any, ...], path: Path_) -> Iterator[tuple[Path_, str]]:
    structs = [shape for shape in shapes if isinstance(shape, type) and issubclass(shape, Struct)]
    if not isinstance(value, dict) or not structs:
        return
    if len(structs) == 1:
        yield from _inside_struct(value, structs[0], path)
        return
    field = str(structs[0].__struct_config__.tag_field)
    by_tag = {str(shape.__struct_config__.tag): shape for shape in structs}
    if field not in value:
        yield path, f"`{field}` is missing; it is one of {', '.join(sorted(by_tag))}"
    elif str(value[field]) not in by_tag:
        yield (*path, field), f"`{field}` is one of {', '.join(sorted(by_tag))}"
    else:
        yield from _inside_struct(value, by_tag[str(value[field])], path)


def _inside_struct(value: dict[str, Any], shape: type[Struct], path: Path_) -> Iterator[tuple[Path_, str]]:
    hints = typing.get_type_hints(shape, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    tag_field = shape.__struct_config__.tag_field
    for key, item in value.items():
        if key in fields:
            yield from _mistakes(item, hints[fields[key].name], (*path, key))
        elif key != tag_field:
            yield (*path, key, "#key"), f"`{key}` is not known here" + _guess(key, fields)
    for name, field in fields.items():
        if field.required and name not in value:
            yield path, f"`{name}` is missing"


def _bare(shape: Any) -> Any:
    while typing.get_origin(shape) is typing.Annotated:
        shape = typing.get_args(shape)[0]
    return shape


def _guess(key: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _known(noun: str, names: dict[str, Any]) -> str:
    return f"Known {noun}: {', '.join(sorted(names)) or 'none'}."


def json_schema() -> str:
    """The JSON Schema of a policy file, as `policies/schema.json` holds it."""
    schema = msgspec.json.schema(Policy)
    for kind, shape in schema["$defs"].items():
        for name, field in shape.get("properties", {}).items():
            if words := WORDS.get(f"{kind}.{name}", WORDS.get(name)):
                field["description"] = words
    schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A policy of the mover"}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
