"""Bodies of the HTTP API, and nothing else: what a request may say and what an answer holds.

Times are RFC 3339 UTC. Ids stand for rows; original names appear in requests (a folder, a table's path) and
never in answers. OpenAPI is made from these types.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from mover.model.moving import Keep
from mover.model.policy import KeepRules

ShortText = Annotated[str, Meta(min_length=1, max_length=512)]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]


class Body(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Requests refuse unknown fields: a misspelt option must not be silently ignored."""


class Answer(Struct, frozen=True):
    """Answers may grow fields; clients ignore what they do not know. (`kw_only` is not inherited.)"""


class Problem(Answer, frozen=True, kw_only=True):
    """RFC 9457 problem+json."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    where: str = ""
    retry: Literal["never", "later", "elsewhere"] = "never"
    hint: str = ""
    request: str = ""
    details: list[dict[str, Any]] = []


class Proof(Answer, frozen=True, kw_only=True):
    id: str
    kind: str
    count: int
    bytes: int
    root: str
    verifier: str
    at: datetime


class PlanStep(Answer, frozen=True, kw_only=True):
    """What would be done, to what (our ids, or paths of deidentified tiers), and why."""

    action: str
    subject: str
    reason: str
    bytes: int = 0


class Plan(Answer, frozen=True, kw_only=True):
    """Answer to any POST with `?plan=true`: nothing was changed."""

    step: str
    counts: dict[str, int]
    bytes: int
    steps: list[PlanStep]
    truncated: bool = False
    # of a restore: how long such ones took, what it needs and what is free there, and in place what to agree to
    seconds_low: float | None = None
    seconds_high: float | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None
    digest: str | None = None


# --- step 1 --------------------------------------------------------------------------------------------


class BatchRequest(Body, frozen=True):
    """`folder` is relative to the source tier; `expected_count` or `expected` says when it is whole."""

    folder: PathText
    tier: str | None = None
    policy: str | None = None
    expected_count: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    expected: list[ShortText] | None = None


class Batch(Answer, frozen=True, kw_only=True):
    id: str
    state: Literal["declared", "walking", "working", "complete", "failed"]
    tier: str
    policy: str
    created_at: datetime
    finished_at: datetime | None = None
    expected_count: int | None = None
    found_count: int | None = None
    missing_count: int | None = None
    packs: dict[str, int] = {}  # by state
    reasons: dict[str, int] = {}  # quarantined, by reason code
    bytes: int = 0
    proofs: list[Proof] = []
    explanation: str | None = None


class BatchPage(Answer, frozen=True, kw_only=True):
    batches: list[Batch]
    next: str | None = None


class Pack(Answer, frozen=True, kw_only=True):
    id: str
    state: Literal["found", "published", "duplicate", "quarantined", "excluded"]
    reason: str | None = None
    explanation: str | None = None
    family: str | None = None
    number: str | None = None
    size_bytes: int = 0
    seconds: float | None = None
    proofs: list[Proof] = []


class PackPage(Answer, frozen=True, kw_only=True):
    packs: list[Pack]
    next: str | None = None


class QuarantineOffer(Answer, frozen=True, kw_only=True):
    """A decision that is sound for a cause. `standing`: it may hold for packs that come later; `changed`: only for what
    other software or another profile judged; of two `reviewers` one proposes it and the other confirms. `later`: what
    it does besides where it holds for those that come."""

    action: str
    why: str
    standing: bool = False
    changed: bool = False
    later: str = ""
    reviewers: int = 1


class QuarantineCause(Answer, frozen=True, kw_only=True):
    """Everything that waits for one thing. `kind` is the sort of pack (a suffix, mirax, vms, dicom, picture, other), or
    `records` for sets of tables; `words` are the refusal's without numbers; `packs` are examples, or one page of ids.
    `advice` says what a person may do besides the decisions on offer."""

    id: str
    code: str
    kind: str
    words: str
    count: int
    bytes: int
    batches: int
    since: datetime
    packs: list[str] = []
    offers: list[QuarantineOffer] = []
    advice: str = ""
    # lines of a policy by which it would pass, without anything of the unknown field leaving; empty: there are none
    proposal: str = ""


class QuarantineCauses(Answer, frozen=True, kw_only=True):
    """The most frequent first. `more` causes are not shown."""

    causes: list[QuarantineCause]
    more: int = 0


class QuarantineDecisionRequest(Body, frozen=True):
    """What is to become of everything that waits for a cause, or of some `packs` of it. `standing` also decides about
    packs that come later, where that is sound; by default it does where no packs are listed."""

    action: Literal["retry", "exclude", "accept-without-thumbnail", "declare"]
    reason: Annotated[str, Meta(min_length=8, max_length=512)]
    packs: Annotated[list[ShortText], Meta(min_length=1, max_length=10_000)] | None = None
    standing: bool | None = None


class QuarantineDraftRequest(Body, frozen=True):
    """`column`: the name of the unlisted column, by whoever has the file before them; none: whatever is not listed."""

    column: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class QuarantineDraft(Answer, frozen=True, kw_only=True):
    """The text of a policy as it would be with one rule more, by which nothing of the unlisted column leaves. Nothing
    is saved: that is a change of the policy, from the text of this `digest`."""

    policy: str
    table: str
    digest: str
    text: str


class QuarantineRule(Answer, frozen=True, kw_only=True):
    """A reviewed decision. A standing one holds until it is revoked or decided anew; `excluded` packs stay out by
    it."""

    id: str
    cause: str
    version: int
    action: str
    standing: bool
    code: str
    kind: str
    words: str
    reason: str
    packs: int
    excluded: int = 0
    decided_by: str
    confirmed_by: str | None = None
    decided_at: datetime
    revoked_by: str | None = None
    revoked_at: datetime | None = None
    revoked_reason: str | None = None


class QuarantineRules(Answer, frozen=True, kw_only=True):
    rules: list[QuarantineRule]


class QuarantineProposal(Answer, frozen=True, kw_only=True):
    """A decision that waits for another person than who proposed it. `waiting` were held back for the cause when it was
    proposed; `packs` where it is about those only. Confirmed, it was made by `rule`."""

    id: str
    cause: str
    action: str
    standing: bool
    packs: list[str] | None = None
    code: str
    kind: str
    words: str
    waiting: int
    reason: str
    state: Literal["open", "confirmed", "declined", "lapsed"]
    proposed_by: str
    proposed_at: datetime
    lapses_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    decision: str | None = None
    rule: str | None = None


class QuarantineProposals(Answer, frozen=True, kw_only=True):
    proposals: list[QuarantineProposal]


class QuarantineReview(Body, frozen=True):
    decision: Literal["confirm", "decline"]
    reason: Annotated[str, Meta(min_length=8, max_length=512)]


class QuarantineDecision(Answer, frozen=True, kw_only=True):
    """`packs` were decided, in these `batches`, which go on by themselves. `left` wait as before, and why. Without a
    `rule` nothing was decided yet, or it was declined: the `proposal` says which."""

    rule: QuarantineRule | None = None
    proposal: QuarantineProposal | None = None
    packs: int = 0
    batches: list[str] = []
    left: int = 0
    why_left: str = ""


class QuarantineRevokeRequest(Body, frozen=True):
    reason: Annotated[str, Meta(min_length=8, max_length=512)]


class AdoptionRequest(Body, frozen=True):
    """Scan what stands on a deidentified tier below `prefix` as if it were a source, and register what is clean, with
    `register` at once. `reason`: who says that it is clean; `trust_names`: somebody answers for the names of files, and
    for what DICOM objects call their patient and cases, which are judged otherwise."""

    tier: ShortText
    reason: Annotated[str, Meta(min_length=8, max_length=512)]
    prefix: Annotated[str, Meta(max_length=4096)] = ""
    trust_names: bool = False
    register: bool = True


class AdoptionRegister(Body, frozen=True):
    reason: Annotated[str, Meta(min_length=8, max_length=512)]


class Adoption(Answer, frozen=True, kw_only=True):
    """`verdicts` counts files: clean, known, suspect, refused; `root` is the digest over all of them. `slides` counts
    what is clean: judged, registered, duplicate, refused."""

    id: str
    tier: str
    prefix: str
    state: Literal["scanning", "scanned", "registering", "complete", "failed"]
    trust_names: bool
    reason: str
    explanation: str | None = None
    verdicts: dict[str, int] = {}
    slides: dict[str, int] = {}
    bytes: int = 0
    root: str | None = None
    judged_by: str | None = None
    created_by: str
    created_at: datetime
    finished_at: datetime | None = None


class AdoptionPage(Answer, frozen=True, kw_only=True):
    adoptions: list[Adoption]
    next: str | None = None


class Slide(Answer, frozen=True, kw_only=True):
    number: str
    family: str
    size_bytes: int
    digest: str
    facts: dict[str, Any]
    aligned: dict[str, Any] | None = None
    # reason code: no selection and no run takes it any more
    withdrawn: str | None = None
    # since when its bytes are gone from the archive
    removed_at: datetime | None = None
    tags: list[str] = []


class SlidePage(Answer, frozen=True, kw_only=True):
    slides: list[Slide]
    next: str | None = None


SlideState = Literal["published", "aligned", "withdrawn", "removed"]


class SlideFilter(Struct, frozen=True):
    """Which slides: those of one batch, of one family, in one state, published in a time. A slide is `aligned` once
    records say something of it, `removed` once its bytes are gone."""

    batch: str | None = None
    family: str | None = None
    state: SlideState | None = None
    since: datetime | None = None
    until: datetime | None = None
    tag: str | None = None

    @property
    def is_out(self) -> bool:
        return self.state in ("withdrawn", "removed")


class SlideJudgement(Answer, frozen=True, kw_only=True):
    """One judgement about one place: `code` is PS3.15's letter, `shape` the masked form of what stood there, never the
    value; `times` counts equal ones."""

    place: str
    action: Literal["keep", "drop", "rebuild"]
    code: str
    reason: str
    shape: str
    times: int = 1


class SlideSearch(Answer, frozen=True, kw_only=True):
    """A published slide was searched for what later tables say of its patient, in so many forms and bytes."""

    record_set: str
    outcome: Literal["clean", "found", "unsearched"]
    strings: int
    forms: int
    bytes: int
    at: datetime


class SlideEvidence(Answer, frozen=True, kw_only=True):
    """Before and after. `removed` counts values by action and PS3.15's letter, `looked` what the second look went
    through, `same` what is equal to the source's. `pack` is None for a slide that was adopted."""

    number: str
    family: str
    tier: str
    published_at: datetime
    batch: str | None = None
    pack: str | None = None
    seconds: float | None = None
    thumbnail: bool = False
    judgements: list[SlideJudgement] = []
    truncated: bool = False
    removed: dict[str, int | str] = {}
    kept: int = 0
    looked: dict[str, int | str] = {}
    same: dict[str, int | str] = {}
    methods: list[str] = []
    profile: dict[str, str | int] = {}
    searches: list[SlideSearch] = []
    proofs: list[Proof] = []


class SlideThumbnail(Answer, frozen=True, kw_only=True):
    """The picture of a slide that was made anew when it was published; `data` is in base64, `digest` of its bytes."""

    number: str
    media_type: str
    digest: str
    data: bytes


class SlideView(Answer, frozen=True, kw_only=True):
    """What a deep zoom needs to know: pixels of the full size, and levels that halve from `levels - 1`, the full one,
    down to `first_level`, the smallest that is drawn. `mpp_x` and `mpp_y` are micrometres of a pixel, where known."""

    number: str
    width: int
    height: int
    tile_px: int
    levels: int
    first_level: int
    mpp_x: float | None = None
    mpp_y: float | None = None
    objective: float | None = None
    digest: str


class RulingRequest(Body, frozen=True):
    """`reinstate`: the withdrawal was a false alarm. `remove`: the slide's bytes go from the archive for good."""

    action: Literal["reinstate", "remove"]
    reason: Annotated[str, Meta(min_length=8, max_length=512)]


class RulingDecision(Body, frozen=True):
    """`manifests`: of kept ones, as many as are known to name a slide that is to be removed; none of them can be staged
    again exactly after it."""

    decision: Literal["grant", "decline"]
    reason: Annotated[str, Meta(min_length=8, max_length=512)]
    manifests: Annotated[int, Meta(ge=0)] = 0


class Ruling(Answer, frozen=True, kw_only=True):
    """What two people decide about a withdrawn slide."""

    id: str
    number: str
    action: Literal["reinstate", "remove"]
    state: Literal["asked", "granted", "done", "declined", "failed"]
    reason: str
    asked_by: str
    asked_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None
    decision: str | None = None
    # kept manifests that name the slide: now, or when the second person was told of them
    manifests: int = 0
    explanation: str | None = None


class RulingPage(Answer, frozen=True, kw_only=True):
    rulings: list[Ruling]
    next: str | None = None


# --- step 2 --------------------------------------------------------------------------------------------


class RecordsRequest(Body, frozen=True):
    """`files` ties each table of the policy to a path on the source tier."""

    batch: str
    files: dict[str, PathText]
    policy: str | None = None


class TablesLook(Body, frozen=True):
    """Why somebody looks at what lies on the source tier of a records policy, and where: names of files may be names of
    people, so only custodians and operators look, and every look is on record."""

    purpose: Annotated[str, Meta(min_length=8, max_length=512)]
    folder: Annotated[str, Meta(max_length=4096)] = ""
    policy: str | None = None


class FoundTable(Answer, frozen=True, kw_only=True):
    path: str
    bytes: int
    changed_at: datetime


class FoundTables(Answer, frozen=True, kw_only=True):
    """Files that may be tables, the youngest first, and the tables that the policy wants. Where it is not `whole`,
    there are more files below the folder than one look takes in."""

    tier: str
    policy: str
    tables: list[str]
    found: list[FoundTable]
    whole: bool


class WithdrawnSlide(Answer, frozen=True, kw_only=True):
    """A published slide in which something was found that these tables brought. `runs` hold it still."""

    number: str
    runs: list[str] = []


class RecordSet(Answer, frozen=True, kw_only=True):
    id: str
    batch: str
    version: int
    state: Literal["waiting-for-images", "matching", "aligned", "quarantined"]
    reason: str | None = None
    explanation: str | None = None
    policy: str
    created_at: datetime
    finished_at: datetime | None = None
    ledger: dict[str, dict[str, int]] = {}  # table (and 'images') -> state -> count
    totals: dict[str, int] = {}  # table (and 'images') -> rows read; sums equal the ledger
    slides_aligned: int = 0
    k: int | None = None
    proofs: list[Proof] = []
    withdrawn: list[WithdrawnSlide] = []


class RecordSetPage(Answer, frozen=True, kw_only=True):
    records: list[RecordSet]
    next: str | None = None


class LedgerLine(Answer, frozen=True, kw_only=True):
    table: str
    line: int
    state: str
    reason: str | None = None
    number: str | None = None


class LedgerPage(Answer, frozen=True, kw_only=True):
    lines: list[LedgerLine]
    next: str | None = None


# --- step 3 --------------------------------------------------------------------------------------------


class CohortRequest(Body, frozen=True):
    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{1,60}$")]
    expression: Annotated[str, Meta(min_length=1, max_length=8192)]


class Cohort(Answer, frozen=True, kw_only=True):
    id: str
    name: str
    version: int
    expression: str
    created_at: datetime
    count: int
    bytes: int


class Column(Answer, frozen=True, kw_only=True):
    """`allowed`: what it can be, where a policy lists that. `values`: the most frequent ones of the newest slides,
    where they were asked for and say something about slides rather than name them."""

    name: str
    type: str
    table: str
    allowed: list[str] | None = None
    values: list[str | int | float | bool] | None = None


class Columns(Answer, frozen=True, kw_only=True):
    columns: list[Column]


class CohortPage(Answer, frozen=True, kw_only=True):
    cohorts: list[Cohort]
    next: str | None = None


class CountRequest(Body, frozen=True):
    """How much a cohort expression would name today; nothing is saved."""

    expression: Annotated[str, Meta(min_length=1, max_length=8192)]


class Count(Answer, frozen=True, kw_only=True):
    count: int
    bytes: int


class Clause(Answer, frozen=True, kw_only=True):
    """One part of an expression in words; `depth` 0 is the whole. `count`: slides for which it holds by itself."""

    depth: int
    words: str
    count: int


class Explanation(Answer, frozen=True, kw_only=True):
    """What an expression says, and how it is found. `columns` are read whole through an index; `row_by_row` of the
    `slides` were written since their columns were made. `plan`: how PostgreSQL reads them, by its own estimate."""

    expression: str
    count: int
    bytes: int
    slides: int
    row_by_row: int
    clauses: list[Clause]
    columns: list[str]
    plan: list[str]


class DescribeRequest(Body, frozen=True):
    """How the values of some columns (all facts, when none is named) are spread over what an expression selects;
    over all slides without one."""

    expression: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    columns: Annotated[list[ShortText], Meta(min_length=1, max_length=100)] | None = None


class ValueCount(Answer, frozen=True, kw_only=True):
    value: str | int | float | bool
    count: int


class Bin(Answer, frozen=True, kw_only=True):
    """From `low`, included, to `high`, excluded."""

    low: float
    high: float
    count: int


class Distribution(Answer, frozen=True, kw_only=True):
    """`distinct` is null beyond 10,000; `values` are the most frequent ones, none where they name slides or people."""

    column: str
    type: str
    known: int
    missing: int
    distinct: int | None
    values: list[ValueCount]
    low: float | None = None
    high: float | None = None
    histogram: list[Bin] = []


class Description(Answer, frozen=True, kw_only=True):
    count: int
    bytes: int
    columns: list[Distribution]


class Selection(Answer, frozen=True, kw_only=True):
    """A frozen list of slides. `root`: digest over their numbers and digests, so that equal lists have equal roots."""

    id: str
    cohort: str | None
    expression: str | None
    count: int
    bytes: int
    root: str
    frozen_at: datetime


class SelectionPage(Answer, frozen=True, kw_only=True):
    selection: Selection
    numbers: list[str]
    next: str | None = None


SplitName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class SplitRequest(Body, frozen=True):
    """How a cohort is dealt out: fractions by name, 1 together. The same seed deals the same slides the same way."""

    parts: Annotated[dict[SplitName, Annotated[float, Meta(gt=0, lt=1)]], Meta(min_length=2, max_length=16)]
    by: ShortText | None = None  # the column whose values every part shall have in the same shares
    seed: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    # a slide whose patient nobody knows: whether it is another slide's nobody can say
    unknown_patients: Literal["refuse", "allow"] = "refuse"


class SplitPart(Answer, frozen=True, kw_only=True):
    """One part, as a frozen list. `groups`: patients, with whatever else holds slides together."""

    name: str
    selection: str
    count: int
    bytes: int
    groups: int
    root: str


class SplitShare(Answer, frozen=True, kw_only=True):
    """Of one value of the column in one part: how many slides, and how many its fraction would be."""

    part: str
    value: str | None
    count: int
    wanted: float


class CohortSplit(Answer, frozen=True, kw_only=True):
    cohort: str
    seed: int
    by: str | None
    parts: list[SplitPart]
    shares: list[SplitShare]
    worst: float  # the largest deviation of a share, in slides
    unknown_patients: int


class SplitSource(Body, frozen=True):
    """Exactly one of `cohort` (id, name, name@version), `expression`, `files` (numbers), `selection` (id)."""

    cohort: ShortText | None = None
    expression: Annotated[str, Meta(max_length=8192)] | None = None
    files: list[ShortText] | None = None
    selection: ShortText | None = None


class RunRequest(Body, frozen=True):
    """Exactly one of `cohort` (id, name, name@version), `expression`, `files` (numbers), `selection` (id of a frozen
    list), `like` (run id), `splits`."""

    cohort: ShortText | None = None
    expression: Annotated[str, Meta(max_length=8192)] | None = None
    files: list[ShortText] | None = None
    selection: ShortText | None = None
    like: ShortText | None = None
    # by name (train, val, test): refused where two share a slide, its content, its block or its patient
    splits: Annotated[dict[SplitName, SplitSource], Meta(min_length=2, max_length=16)] | None = None
    tier: str | None = None
    policy: str | None = None
    # with splits, a folder for each of them unless another layout is asked for; `shards`: tars, for many small files
    layout: Literal["flat", "number", "label", "split", "shards"] | None = None
    layout_label: str | None = None
    # the most that a tar of layout `shards` holds, unless a single slide is larger
    shard_bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)] | None = None
    lease_s: Annotated[int, Meta(ge=60, le=31_536_000)] | None = None
    # who waits for space is let in by priority, then by deadline, then in the order of arrival
    priority: Annotated[int, Meta(ge=-10, le=10)] = 0
    # a run that was not let in by then is refused
    deadline: Annotated[datetime, Meta(tz=True)] | None = None


class Estimate(Answer, frozen=True, kw_only=True):
    """Seconds until ready: eight of ten runs like this one took between low and high."""

    low_s: float
    likely_s: float
    high_s: float
    based_on: int  # runs


class QueuePlace(Answer, frozen=True, kw_only=True):
    """Where a run stands in the line before its tier. It begins when `missing_bytes` were released: what it and those
    ahead of it ask for, beyond what is not promised now."""

    position: int
    ahead_bytes: int
    missing_bytes: int | None = None  # None where this node does not know the tier's capacity


class RunHook(Answer, frozen=True, kw_only=True):
    """A cleanup hook of a run: how its last attempt ended, and the end of what it printed."""

    phase: str
    name: str
    state: str  # running, succeeded, failed, timed-out, refused
    attempts: int
    why: str | None = None
    exit_status: int | None = None
    output: str | None = None
    output_bytes: int | None = None  # of all that it printed
    began_at: datetime
    ended_at: datetime | None = None


class Run(Answer, frozen=True, kw_only=True):
    id: str
    state: str
    tier: str
    policy: str
    reason: str | None = None
    explanation: str | None = None
    offenders: list[dict[str, Any]] = []  # all of them; in a page of runs the first
    offenders_count: int = 0
    priority: int = 0
    deadline: datetime | None = None
    queue: QueuePlace | None = None  # while it waits
    event: int = 0  # the last of its events (`GET /v1/runs/{id}/events`)
    root: str | None = None  # as the requester's jobs see it (`seen_as`)
    out: str | None = None
    count: int = 0
    bytes: int = 0
    staged_count: int = 0
    staged_bytes: int = 0
    linked_count: int = 0
    manifest_root: str | None = None
    lease_until: datetime | None = None
    created_at: datetime
    ready_at: datetime | None = None
    cleaned_at: datetime | None = None
    expression: str | None = None
    estimate: Estimate | None = None  # None where there is no history to learn from
    # files whose content on flash was found to be other bytes since; the first of them. Whoever read them should know
    damaged: list[dict[str, Any]] = []
    damaged_count: int = 0
    snapshots: list[str] = []
    strays: list[dict[str, Any]] = []  # the first of them
    strays_count: int = 0
    hooks: list[RunHook] = []  # not in a page of runs
    proofs: list[Proof] = []
    # the run it repeats, and once it is sealed whether its manifest is that run's, byte for byte
    like: str | None = None
    exact: bool | None = None
    # slides of its kept manifest that two persons removed since: it cannot be staged again exactly
    removed: list[str] = []  # the first of them
    removed_count: int = 0


class RunPage(Answer, frozen=True, kw_only=True):
    runs: list[Run]
    next: str | None = None


class RunEvent(Answer, frozen=True, kw_only=True):
    """A state the run came into; `id` is what a cut-off watcher names in `Last-Event-ID`."""

    id: int
    run: str
    state: str
    reason: str | None = None
    at: datetime


class RunProgress(Answer, frozen=True, kw_only=True):
    """How far it is between two states."""

    run: str
    state: str
    count: int
    bytes: int
    staged_count: int
    staged_bytes: int
    rate_bytes_s: float | None = None
    queue: QueuePlace | None = None
    estimate: Estimate | None = None


class Changed(Answer, frozen=True, kw_only=True):
    """What is to be asked again: by noun of the table of rights, the ids of what changed, or null where it may be any.
    `id` is what a cut-off watcher names in `Last-Event-ID`."""

    id: int
    nouns: dict[str, list[str] | None]


class ChangesReset(Answer, frozen=True, kw_only=True):
    """More changed than can be told: ask for everything again."""

    id: int


class StagedEntry(Answer, frozen=True, kw_only=True):
    """One file that stands verified below the run's data/: usable before the run as a whole is ready."""

    path: str
    number: str | None = None  # None of what the daemon writes itself
    size_bytes: int
    digest: str
    # the tar it stands in, and where in it, of a run laid out in tars
    shard: str | None = None
    offset: int | None = None


class StagedPage(Answer, frozen=True, kw_only=True):
    """In the order in which they came. `next` where the page is full; what comes later comes after `cursor`."""

    entries: list[StagedEntry]
    next: str | None = None
    cursor: str | None = None


class Stray(Answer, frozen=True, kw_only=True):
    """What cleanup found in a run root and moved aside instead of removing it."""

    path: str
    size_bytes: int
    why: str
    moved_to: str


class StrayPage(Answer, frozen=True, kw_only=True):
    strays: list[Stray]
    next: str | None = None


class FinishRequest(Body, frozen=True):
    """What training leaves behind. `artifacts` default to the run's out/; other paths must lie under declared
    roots and are opened with the requester's rights."""

    artifacts: list[PathText] | None = None
    code: PathText | None = None
    logs: list[PathText] | None = None
    exit: Annotated[int, Meta(ge=-2_147_483_648, le=2_147_483_647)] | None = None
    environment: dict[str, str] | None = None


# --- step 4 --------------------------------------------------------------------------------------------


class Snapshot(Answer, frozen=True, kw_only=True):
    id: str
    repository_id: str
    run: str | None
    state: Literal["written", "checked", "trashed", "forgotten"]
    tier: str
    policy: str
    files: int
    bytes: int
    added_bytes: int
    missing: list[str] = []
    reasons: list[str] = []
    recorded_at: datetime
    series: str
    tags: list[str] = []
    held: bool = False
    doubt: Literal["flood", "collapsed", "incomplete"] | None = None
    missing_at: datetime | None = None  # its file left the repository, and not by us
    trash_until: datetime | None = None
    holds: list[Hold] = []  # of one snapshot that was asked for by its id


class Hold(Answer, frozen=True, kw_only=True):
    """Beats every rule, every plan and every agreement until it ends or two persons release it."""

    id: str
    snapshot: str
    reason: str
    until: datetime | None = None
    placed_by: str
    placed_at: datetime


class SnapshotPage(Answer, frozen=True, kw_only=True):
    snapshots: list[Snapshot]
    next: str | None = None


class ProtectedFolder(Answer, frozen=True, kw_only=True):
    """A plain folder of a protect policy. `unprotected_since`: it has held something since then that no whole snapshot
    does, as far as it was looked at."""

    id: str
    policy: str
    name: str
    path: str
    state: Literal["idle", "running"]
    cron: str | None = None
    settled_s: int | None = None
    next_at: datetime | None = None
    protected_at: datetime | None = None
    unprotected_since: datetime | None = None
    snapshot: str | None = None
    files: int | None = None
    bytes: int | None = None
    reason: str | None = None
    explanation: str | None = None


class Rebuilds(Answer, frozen=True, kw_only=True):
    """Policies whose repositories are looked through for snapshots that the catalog does not know."""

    policies: list[str]


class ProtectedFolders(Answer, frozen=True, kw_only=True):
    folders: list[ProtectedFolder]


Reason = Annotated[str, Meta(min_length=3, max_length=500)]
Tag = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]


class HoldRequest(Body, frozen=True):
    """Without `until` the hold stands until two persons release it."""

    reason: Reason
    until: datetime | None = None


class TagRequest(Body, frozen=True):
    tags: Annotated[list[Tag], Meta(min_length=1, max_length=100)]


class SimulationRequest(Body, frozen=True):
    """Keep rules to try on what was recorded, of one policy or one run."""

    keep: KeepRules
    policy: ShortText | None = None
    run: ShortText | None = None
    past_days: Annotated[int, Meta(ge=0, le=3660)] = 365
    ahead_days: Annotated[int, Meta(ge=0, le=730)] = 90


class SimulatedMoment(Answer, frozen=True, kw_only=True):
    at: datetime
    kept: int
    bytes: int


class SimulatedLeaving(Answer, frozen=True, kw_only=True):
    """A snapshot that stands today, and when these rules would no longer keep it."""

    snapshot: str
    series: str
    at: datetime
    reason: str


class Simulation(Answer, frozen=True, kw_only=True):
    """`shorter`: where these rules promise less than the policy's file does. `later`: snapshots that the time ahead
    was thought to bring. Sizes are before anything is shared."""

    policy: str
    rules: str
    standing: int
    moments: list[SimulatedMoment]
    leaving: list[SimulatedLeaving]
    leaving_count: int
    later: int
    shorter: list[str] = []


class ShorteningRequest(Body, frozen=True):
    """What would make protection shorter. `shorten` and `large` name a policy, `remove-key` a policy and keys of its
    repositories, `release-hold` holds, the others snapshots; `untag` also the tags that go. Nothing happens before
    another person approved and the delay passed."""

    kind: Literal["shorten", "forget", "empty-trash", "release-hold", "agree", "untag", "large", "remove-key"]
    reason: Reason
    policy: ShortText | None = None
    subjects: Annotated[list[ShortText], Meta(max_length=1000)] = []
    tags: Annotated[list[Tag], Meta(max_length=100)] = []


class Shortening(Answer, frozen=True, kw_only=True):
    id: str
    kind: str
    state: Literal["asked", "approved", "applied", "withdrawn", "lapsed"]
    policy: str | None = None
    subjects: list[str] = []
    shorter: list[str] = []  # of a policy: the words that promise less
    wanted: dict[str, Any] = {}
    reason: str
    requested_by: str
    requested_at: datetime
    not_before: datetime
    lapses_at: datetime
    approved_by: str | None = None
    approved_at: datetime | None = None
    withdrawn_by: str | None = None
    applied_at: datetime | None = None


class ShorteningPage(Answer, frozen=True, kw_only=True):
    shortenings: list[Shortening]
    next: str | None = None


class ProtectTurn(Answer, frozen=True, kw_only=True):
    """One turn of a repository's upkeep: what it planned, what it did, and why it waits when it does."""

    id: str
    policy: str
    kind: Literal["keep", "prune", "drill", "sample", "whole", "copy", "rebuild"]
    state: Literal["running", "waiting", "done", "failed"]
    plan: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    explanation: str | None = None
    started_at: datetime
    finished_at: datetime | None = None


class TurnRequest(Body, frozen=True):
    """A turn of a policy's upkeep, now and not by the clock; of the default policy when none is named."""

    kind: Literal["keep", "prune", "drill", "sample", "whole", "copy"]
    policy: ShortText | None = None


class KeyRequest(Body, frozen=True):
    """One more password for a policy's repository. It is in a file that the daemon reads, `repository-key-<name>`
    beside its own password file or among its systemd credentials: no password is ever in a request."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    policy: ShortText | None = None
    second: bool = False  # of the policy's second repository


class RepositoryKey(Answer, frozen=True, kw_only=True):
    """What a key file says of itself; nothing of it is authenticated. `current`: the daemon works with it."""

    id: str
    made_by: str
    created: str
    current: bool


class RepositoryKeys(Answer, frozen=True, kw_only=True):
    tier: str
    prefix: str
    keys: list[RepositoryKey]


class ProtectTerms(Answer, frozen=True, kw_only=True):
    """What holds for a policy's snapshots, whatever its file says; `shorter` waits for two persons, `file` in it being
    that no file names the policy any more."""

    policy: str
    terms: dict[str, Any]
    since: datetime
    shorter: list[str] = []
    snapshots: dict[str, int] = {}
    doubtful: int = 0
    missing: int = 0
    turns: list[ProtectTurn] = []


class Protection(Answer, frozen=True, kw_only=True):
    policies: list[ProtectTerms]
    waiting: list[Shortening] = []


class SnapshotFile(Answer, frozen=True, kw_only=True):
    path: str
    type: str
    size_bytes: int
    digest: str | None = None


class SnapshotFiles(Answer, frozen=True, kw_only=True):
    files: list[SnapshotFile]
    next: str | None = None


class RestoreRequest(Body, frozen=True):
    """`to` is a new folder below a declared root, or anywhere the requester may write. What is restored: a snapshot, or
    the newest of a run or of a series that was on record `as_of` a time. Files that a pattern of `first` names come
    before the others and are visible as soon as all of them stand; a pattern with a slash speaks of paths. `in_place`
    restores into a folder that stands: it needs the `digest` of its plan as `agreed`."""

    to: PathText
    snapshot: ShortText | None = None
    run: ShortText | None = None
    series: ShortText | None = None
    as_of: datetime | None = None
    path: PathText = "/"
    first: list[ShortText] = []
    in_place: bool = False
    agreed: ShortText | None = None


class Restore(Answer, frozen=True, kw_only=True):
    """`first_at`: what is wanted first stands in `to` since then. `damaged` (the first of them) were left out, `left`
    were not restored because something stood there; what was replaced lies in `aside`, beside `to`."""

    id: str
    snapshot: str
    tier: str
    state: Literal["waiting", "restoring", "complete", "incomplete", "cancelled", "failed"]
    to: str
    path: str
    first: list[str] = []
    in_place: bool = False
    files: int = 0
    bytes: int = 0
    of_files: int | None = None
    of_bytes: int | None = None
    of_packs: int | None = None
    rate_bytes_s: float | None = None
    eta_s: float | None = None
    seconds: float = 0.0
    first_at: datetime | None = None
    damaged_count: int = 0
    damaged: list[str] = []
    left_count: int = 0
    left: list[str] = []
    warnings_count: int = 0
    warnings: list[str] = []
    aside: str | None = None
    reason: str | None = None
    explanation: str | None = None
    cancelling: bool = False
    created_by: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class RestorePage(Answer, frozen=True, kw_only=True):
    restores: list[Restore]
    next: str | None = None


class Version(Answer, frozen=True, kw_only=True):
    """A path in one snapshot, by the time of record; `change` is against the snapshot before in the same series."""

    snapshot: str
    run: str | None
    series: str
    sequence: int
    recorded_at: datetime
    change: Literal["new", "changed", "same", "gone"]
    size_bytes: int | None = None
    digest: str | None = None


class VersionPage(Answer, frozen=True, kw_only=True):
    versions: list[Version]
    next: int | None = None


class SnapshotChange(Answer, frozen=True, kw_only=True):
    """`metadata`: the same content; `facts` names what else differs."""

    path: str
    change: Literal["added", "removed", "changed", "metadata"]
    type: str
    size_bytes_before: int | None = None
    size_bytes_after: int | None = None
    facts: list[str] = []


class SnapshotDiff(Answer, frozen=True, kw_only=True):
    before: str
    after: str
    changes: list[SnapshotChange]
    next: str | None = None


class Check(Answer, frozen=True, kw_only=True):
    """A repository as its own bytes tell it: `whole` only when every object that was read hashed to its name."""

    whole: bool
    tier: str
    snapshots: int
    blobs: int
    bytes: int
    problems: list[str] = []


# --- transfers -----------------------------------------------------------------------------------------


class TransferLimits(Body, frozen=True):
    """Bounds of one source of one transfer, beside the budgets of its tier."""

    bytes_s: Annotated[int, Meta(ge=1)] | None = None
    files_s: Annotated[int, Meta(ge=1)] | None = None
    shards: Annotated[int, Meta(ge=1, le=1000)] | None = None


class TransferSource(Body, frozen=True):
    """A tree (`prefix`), or of it a list (`keys`, relative to the prefix, as `\\xNN` where bytes are no text), or
    what a condition selects (`where`); `catalog`: from what the catalog knows of the tier, without listing it."""

    tier: ShortText
    prefix: Annotated[str, Meta(max_length=4096)] = ""
    keys: Annotated[list[PathText], Meta(min_length=1, max_length=100_000)] | None = None
    where: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    catalog: bool = False
    # below the target's prefix; default: the target's prefix itself
    to: Annotated[str, Meta(max_length=4096)] = ""
    limits: TransferLimits = TransferLimits()


class TransferRelease(Body, frozen=True):
    """Of a move: how long sources wait in the trash, and how many may go without a second person."""

    hold_s: Annotated[int, Meta(ge=0, le=315_360_000)] = 7 * 86_400
    entries: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 100
    percent: Annotated[float, Meta(ge=0, le=100)] = 1.0


class TransferRequest(Body, frozen=True):
    """Either a `policy` of kind move and nothing else, or sources and a target tier."""

    verb: Literal["copy", "move"] = "copy"
    sources: Annotated[list[TransferSource], Meta(max_length=100)] = []
    to: ShortText | None = None
    prefix: Annotated[str, Meta(max_length=4096)] = ""
    policy: ShortText | None = None
    keep: Keep = Keep()
    readback: bool = True
    canary: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    # an entry that cannot be moved stops the whole, or is reported while the rest moves
    offenders: Literal["refuse", "report"] = "refuse"
    tries: Annotated[int, Meta(ge=1, le=10)] = 3
    release: TransferRelease = TransferRelease()


class Release(Answer, frozen=True, kw_only=True):
    """Sources of one tier on their way out. `counts` by state: released (in the trash), kept, restored, purged."""

    id: str
    tier: str
    state: str
    reason: str | None = None
    explanation: str | None = None
    entries: int
    bytes: int
    counts: dict[str, int] = {}
    kept: dict[str, int] = {}  # by code
    hold_until: datetime | None = None
    requested_by: str
    approved_by: str | None = None


class Transfer(Answer, frozen=True, kw_only=True):
    id: str
    verb: Literal["copy", "move"]
    state: str
    reason: str | None = None
    explanation: str | None = None
    sources: list[str]  # tier:prefix
    to: str
    policy: str | None = None
    entries: int = 0
    bytes: int = 0
    counts: dict[str, int] = {}  # of entries, by state
    codes: dict[str, int] = {}  # of what failed or was refused
    done_bytes: int = 0
    moved_bytes: int = 0
    rate_bytes_s: float | None = None
    rate_entries_s: float | None = None
    eta_s: float | None = None
    estimate_s: float | None = None  # by earlier transfers between these tiers; none: no history
    rounds: int = 0
    canary: int = 0
    offenders: list[dict[str, Any]] = []
    releases: list[Release] = []
    created_by: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class TransferPage(Answer, frozen=True, kw_only=True):
    transfers: list[Transfer]
    next: str | None = None


# --- the rest ------------------------------------------------------------------------------------------


class TierLock(Answer, frozen=True, kw_only=True):
    """Whether what is kept on the tier could be destroyed with the daemon's own credential, as the last lock probe
    found it; `succeeded` names what was tried and not refused."""

    means: Literal["object lock", "immutable files"]
    state: Literal["immutable", "not immutable", "unknown"]
    explanation: str | None = None
    succeeded: list[str] = []
    probed_at: datetime | None = None
    since: datetime


class Tier(Answer, frozen=True, kw_only=True):
    name: str
    kind: str
    zone: str
    role: str
    online: bool
    traits: dict[str, Any] = {}
    capacity_bytes: int | None = None
    free_bytes: int | None = None
    reserved_bytes: int = 0
    explanation: str | None = None
    lock: TierLock | None = None
    # whether anything of what it holds may be deleted
    deletes: bool = True


class Tiers(Answer, frozen=True, kw_only=True):
    tiers: list[Tier]


# --- verification --------------------------------------------------------------------------------------


class VerificationRequest(Body, frozen=True):
    """Read again a tier (below a prefix), the root of a run, or the listed keys of a tier, and compare with the
    catalog. Keys are written as in reports: `\\xNN` for bytes that are no text. `strangers`: the tier is listed
    too. `repair_from`: a tier whose copies may replace what is damaged."""

    tier: str | None = None
    prefix: Annotated[str, Meta(max_length=4096)] = ""
    run: str | None = None
    keys: Annotated[list[PathText], Meta(min_length=1, max_length=100_000)] | None = None
    strangers: bool = True
    repair_from: str | None = None


class Verification(Answer, frozen=True, kw_only=True):
    """`findings` counts by kind, `open` those of them that stand. `limit_bytes` is a scheduled one's share."""

    id: str
    tier: str
    scope: Literal["tier", "run", "list"]
    prefix: str = ""
    run: str | None = None
    policy: str | None = None
    state: Literal["planning", "reading", "listing", "confirming", "complete", "failed", "aborted"]
    reason: str | None = None
    explanation: str | None = None
    strangers: bool
    repair_from: str | None = None
    limit_bytes: int | None = None
    entries: int
    bytes: int
    checked: int
    checked_bytes: int
    listed: int
    findings: dict[str, int] = {}
    open: dict[str, int] = {}
    repaired: int = 0
    created_by: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class VerificationPage(Answer, frozen=True, kw_only=True):
    verifications: list[Verification]
    next: str | None = None


class Finding(Answer, frozen=True, kw_only=True):
    """One entry that is not as the catalog says. `quarantine` is where its damaged bytes were moved."""

    id: str
    kind: Literal["bit-rot", "changed", "missing", "stranger", "unreadable"]
    state: Literal["open", "repaired", "cleared", "repeated"]
    key: str
    subject: str | None = None
    expected: str | None = None
    found: str | None = None
    bytes: int | None = None
    found_bytes: int | None = None
    code: str | None = None
    explanation: str | None = None
    quarantine: str | None = None
    repaired_from: str | None = None
    repaired_at: datetime | None = None
    at: datetime


class ArchiveTurn(Answer, frozen=True, kw_only=True):
    """One turn of an archive policy: slides copied, files locked on, and what could not be."""

    state: Literal["running", "done", "failed"]
    started_at: datetime
    finished_at: datetime | None = None
    copied: int
    bytes: int
    failed: int
    locked: int
    missing: int
    explanation: str | None = None


class Archive(Answer, frozen=True, kw_only=True):
    """How the slides of an archive policy stand. `late`: without a whole second copy a day after they were published;
    `damaged`: files found so on either tier and not repaired; `doubted`: such as are read again now; `locked_until`:
    when the first lock runs out."""

    policy: str
    tier: str
    second_copy: str | None = None
    slides: int
    bytes: int
    copied: int
    late: int
    failed: int
    damaged: int
    doubted: int
    locked_until: datetime | None = None
    turn: ArchiveTurn | None = None


class Archives(Answer, frozen=True, kw_only=True):
    archives: list[Archive]


class FindingPage(Answer, frozen=True, kw_only=True):
    findings: list[Finding]
    next: str | None = None


class PolicyView(Answer, frozen=True, kw_only=True):
    name: str
    kind: str
    digest: str
    text: str


class Policies(Answer, frozen=True, kw_only=True):
    policies: list[PolicyView]


PolicyText = Annotated[str, Meta(min_length=1, max_length=1 << 20)]
PolicyName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{1,40}$")]


class PolicyStand(Answer, frozen=True, kw_only=True):
    """What a node follows of this name; no digest: it has no such policy any more."""

    node: str
    digest: str | None = None
    at: datetime


class PolicyChange(Answer, frozen=True, kw_only=True):
    """A change of one policy's file on one node. `risks` is why a second person agrees first; without any it acts at
    once. No `digest`: the policy goes."""

    id: str
    node: str
    name: str
    kind: str
    state: Literal["asked", "approved", "applied", "withdrawn", "lapsed", "refused"]
    base: str | None = None
    digest: str | None = None
    text: str | None = None
    diff: list[str] = []  # lines against the text that was edited
    risks: list[str] = []
    reason: str
    requested_by: str
    requested_at: datetime
    lapses_at: datetime
    approved_by: str | None = None
    withdrawn_by: str | None = None
    applied_at: datetime | None = None
    explanation: str | None = None  # why it was not carried out


class PolicyChangePage(Answer, frozen=True, kw_only=True):
    changes: list[PolicyChange]
    next: str | None = None


class PolicyDetail(Answer, frozen=True, kw_only=True):
    """`text` is what stands in the file, `digest` names it; `trouble` says why that is not followed, `unwritable` why
    it cannot be changed here. `holds`: where more holds than the file says."""

    name: str
    kind: str
    digest: str
    followed: str  # digest of the text that is followed
    text: str
    file: str
    value: dict[str, Any]
    holds: list[str] = []
    trouble: str | None = None
    unwritable: str | None = None
    nodes: list[PolicyStand] = []
    waiting: list[PolicyChange] = []


class PolicyVersion(Answer, frozen=True, kw_only=True):
    """`diff`: lines against what stood on this node before. Without a `change`, somebody edited the file."""

    id: str
    node: str
    digest: str | None = None
    at: datetime
    text: str | None = None
    diff: list[str] = []
    change: str | None = None
    changed_by: str | None = None
    approved_by: str | None = None
    reason: str | None = None


class PolicyVersionPage(Answer, frozen=True, kw_only=True):
    versions: list[PolicyVersion]
    next: str | None = None


class PolicyCheckRequest(Body, frozen=True):
    """A text as it is typed. `name`: the policy whose place it is to take; without it its own name says."""

    text: PolicyText
    name: PolicyName | None = None


class PolicyMistake(Answer, frozen=True, kw_only=True):
    """Lines and columns begin at 1. `file`: another one that it does not go together with."""

    line: int
    column: int
    what: str
    file: str | None = None


class PolicyChecked(Answer, frozen=True, kw_only=True):
    """Every mistake; and the text as values, where it is YAML."""

    mistakes: list[PolicyMistake]
    name: str | None = None
    kind: str | None = None
    value: dict[str, Any] | None = None
    diff: list[str] = []  # lines that are another than in the file of this name


class PolicySchema(Answer, frozen=True, kw_only=True):
    """The JSON Schema of policies, and what this daemon has to choose from: tiers by name with their zone and role,
    receivers of alarms, profiles; `templates` are texts that ship with it, by kind, to begin with."""

    document: dict[str, Any]
    tiers: list[dict[str, str]] = []
    receivers: list[str] = []
    profiles: list[str] = []
    templates: dict[str, str] = {}


class PolicyChangeRequest(Body, frozen=True):
    """`digest` is of the text that was edited: another one meanwhile refuses the change. None: there was none."""

    text: PolicyText
    reason: Reason
    digest: ShortText | None = None


class PolicyRemovalRequest(Body, frozen=True):
    digest: ShortText
    reason: Reason


class AuditRecord(Answer, frozen=True, kw_only=True):
    node: str
    seq: int
    at: datetime
    body: dict[str, Any]
    hash: str


class ScanRequest(Body, frozen=True):
    """Walk a tier or a folder of it. `inventory` is the key of an S3 Inventory's manifest on the tier; `empty_ok`
    says that a place where entries are known was emptied on purpose; `changes_only` reads the folders that changed
    since the last complete scan, as the watcher heard, and ends as `caught-up`: only a full scan saw everything."""

    tier: ShortText
    prefix: Annotated[str, Meta(max_length=4096)] = ""
    inventory: PathText | None = None
    cross_mounts: bool = False
    empty_ok: bool = False
    changes_only: bool = False


class Drift(Answer, frozen=True, kw_only=True):
    """Between the catalog and what was seen. An entry with another size, time or inode than before has lost its
    digest; `changed_verified` are those that had been verified: somebody wrote there, or something broke. Rot under
    an unchanged fingerprint no walk can see: that is what `mover verify` is for. `gone` is null when it could not be
    judged."""

    same: int
    new: int
    changed: int
    changed_verified: int
    gone: int | None = None
    gone_verified: int | None = None


class Scan(Answer, frozen=True, kw_only=True):
    """`prefix` is null on identified tiers, where it is a name. `findings` are places that could not be seen: any of
    them makes the scan incomplete, and nothing is called gone."""

    id: str
    state: Literal["waiting", "walking", "merging", "complete", "caught-up", "incomplete", "failed"]
    tier: str
    method: Literal["walk", "listing", "inventory", "changes"]
    prefix: str | None = None
    folders: int
    folders_left: int
    entries: int
    bytes: int
    entries_s: float
    listings: int
    listings_same: int
    vanished: int
    findings: int
    drift: Drift
    walk_s: float
    merge_s: float
    created_at: datetime
    finished_at: datetime | None = None
    error_code: str | None = None
    explanation: str | None = None


class ScanPage(Answer, frozen=True, kw_only=True):
    scans: list[Scan]
    next: str | None = None


class ScanFinding(Answer, frozen=True, kw_only=True):
    """`path` is null on identified tiers."""

    code: str
    path: str | None
    at: datetime


class ScanFindingPage(Answer, frozen=True, kw_only=True):
    findings: list[ScanFinding]
    next: str | None = None


class AuditPage(Answer, frozen=True, kw_only=True):
    """`earlier`, told with the last page: the packs on tiers in which older records stand."""

    records: list[AuditRecord]
    next: str | None = None
    earlier: list[str] = []


class CheckpointCopies(Answer, frozen=True, kw_only=True):
    """What a tier holds of the project's checkpoints: how many, up to which, and by whose keys the newest are signed.
    `unread` is why nothing is known of a tier now."""

    tier: str
    newest: int = 0
    count: int = 0
    signers: list[str] = []
    problems: list[str] = []
    unread: str | None = None


class Checkpoint(Answer, frozen=True, kw_only=True):
    """Where the chains ended at a time, signed; `records` are those it covers, `tiers` those that have it."""

    n: int
    at: datetime
    digest: str
    fingerprint: str
    records: int
    tiers: list[str]


class Checkpoints(Answer, frozen=True, kw_only=True):
    checkpoints: list[Checkpoint]
    next: str | None = None


class LostRecords(Answer, frozen=True, kw_only=True):
    """Of one chain: the last record in which it and the copies on tiers agree, and the last that copies tell of."""

    node: str
    kept: int
    upto: int


class AuditRestore(Answer, frozen=True, kw_only=True):
    """The catalog was restored from an older dump, and tiers know of records that it lost; told for ever once two
    people said so. `checkpoint` is the one that says it, `after` the last that catalog and tiers have in common."""

    id: str
    state: Literal["asked", "accepted", "lapsed"]
    after: int
    checkpoint: int
    lost: list[LostRecords]
    reason: str
    asked_by: str
    asked_at: datetime
    approved_by: str | None = None
    approved_at: datetime | None = None


class RetiredRecords(Answer, frozen=True, kw_only=True):
    """Of one chain: the records after `after`, up to `upto`."""

    node: str
    after: int
    upto: int


class AuditRetirement(Answer, frozen=True, kw_only=True):
    """The oldest records of some chains leave the catalog for a signed pack, which stands under the name `pack` on
    each of `tiers`, once two people said so; `left` is how many of them are still in the catalog. `checkpoint` says
    it, too."""

    id: str
    state: Literal["asked", "approved", "retired", "lapsed"]
    before: datetime
    chains: list[RetiredRecords]
    records: int
    left: int
    pack: str
    digest: str
    bytes: int
    tiers: list[str]
    reason: str
    asked_by: str
    asked_at: datetime
    checkpoint: int | None = None
    approved_by: str | None = None
    approved_at: datetime | None = None


class AuditRetirements(Answer, frozen=True, kw_only=True):
    retirements: list[AuditRetirement]


class AuditRestores(Answer, frozen=True, kw_only=True):
    restores: list[AuditRestore]


class Question(Answer, frozen=True, kw_only=True):
    """What can be asked; `about` says of what, where it is asked of one thing."""

    code: str
    asks: str
    about: str | None = None


class Questions(Answer, frozen=True, kw_only=True):
    questions: list[Question]


class ComplianceAnswer(Answer, frozen=True, kw_only=True):
    """A sentence, the rows that it was made of (the first thousand; `cut` when there are more), and the commands whose
    output proves them to somebody who believes neither."""

    question: str
    asks: str
    about: str | None = None
    tone: Literal["good", "warn", "bad", "plain"]
    answer: str
    columns: list[str]
    rows: list[list[str]]
    cut: bool = False
    proof: list[str]


class AuditRestoreRequest(Body, frozen=True):
    reason: Reason


class AuditRetirementRequest(Body, frozen=True):
    """Records from before this time, which is six years ago or more."""

    before: Annotated[datetime, Meta(tz=True)]
    reason: Reason


class AuditVerdict(Answer, frozen=True, kw_only=True):
    """`whole` only when every chain of the project was recomputed and matched, and fits what stands on other tiers.
    `restored` is what that leaves out, since two people said so; `retired` are records that left for packs on tiers,
    since two people said so; `uncovered` are the youngest records, which no signed copy that was read covers yet."""

    whole: bool
    records: int
    chains: dict[str, int]
    uncovered: int = 0
    broken: list[dict[str, Any]] = []
    checkpoints: list[CheckpointCopies] = []
    restored: list[AuditRestore] = []
    retired: list[AuditRetirement] = []

    @property
    def packs_unread(self) -> list[AuditRetirement]:
        """Records left for these, and no tier that holds the pack was read."""
        read = {one.tier for one in self.checkpoints if one.unread is None}
        return [one for one in self.retired if read.isdisjoint(one.tiers)]


Scopes = Annotated[list[Annotated[str, Meta(pattern=r"^[a-z]+\.[a-z]+$")]], Meta(min_length=1, max_length=200)]


class TokenRequest(Body, frozen=True):
    """`scopes` are actions of the role; without them it may all that the role may."""

    actor: ShortText
    role: Literal["viewer", "operator", "admin", "custodian", "scheduler"]
    expires_at: datetime | None = None
    posix_uid: Annotated[int, Meta(ge=0, le=2_147_483_647)] | None = None
    posix_gid: Annotated[int, Meta(ge=0, le=2_147_483_647)] | None = None
    scopes: Scopes | None = None


class OwnTokenRequest(Body, frozen=True):
    """A token of one's own account, in the role one has; it ends with the account, or with the role."""

    label: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[\x20-\x7e]+$")]
    expires_at: datetime
    scopes: Scopes | None = None


class Token(Answer, frozen=True, kw_only=True):
    id: str
    actor: str
    role: str
    secret: str | None = None  # only in the answer to its making
    expires_at: datetime | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None  # to the minute
    scopes: list[str] | None = None
    account: str | None = None


class Tokens(Answer, frozen=True, kw_only=True):
    tokens: list[Token]


# --- people: accounts and their sessions -----------------------------------------------------------------

PersonRole = Literal["viewer", "operator", "admin", "custodian"]
AccountName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._-]{0,127}$")]
Password = Annotated[str, Meta(min_length=12, max_length=256)]


class SessionRequest(Body, frozen=True):
    """Either a name and a password, or a token."""

    name: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    password: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    token: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class SignInWays(Answer, frozen=True, kw_only=True):
    """`provider` is the label of the identity provider, where there is one."""

    password: bool = True
    provider: str | None = None


class ProjectRole(Answer, frozen=True, kw_only=True):
    project: str
    role: str


class Session(Answer, frozen=True, kw_only=True):
    """Who asks, and what they may. `proven`: the database itself saw the secret, so that this person can be the second
    beside anybody; without it their word is the machine's."""

    actor: str
    kind: Literal["password", "token", "provider", "bearer", "machine"]
    project: str
    role: str
    projects: list[ProjectRole]
    actions: list[str]
    proven: bool
    csrf: str = ""
    began_at: datetime | None = None
    ends_at: datetime | None = None


class SessionsEnded(Answer, frozen=True, kw_only=True):
    ended: int


class ProjectChoice(Body, frozen=True):
    project: ShortText


class PasswordChange(Body, frozen=True):
    old: Annotated[str, Meta(min_length=1, max_length=256)]
    new: Password


class AccountRequest(Body, frozen=True):
    """Without a password one is made up and told once. `posix_uid` and `posix_gid` open the paths this person names."""

    name: AccountName
    role: PersonRole
    password: Password | None = None
    expires_at: datetime | None = None
    posix_uid: Annotated[int, Meta(ge=1, le=2_147_483_647)] | None = None
    posix_gid: Annotated[int, Meta(ge=1, le=2_147_483_647)] | None = None


class PasswordRequest(Body, frozen=True):
    password: Password | None = None


class GrantRequest(Body, frozen=True):
    role: PersonRole


class Account(Answer, frozen=True, kw_only=True):
    """As one project sees it; null where its role here was taken away. `sessions` are the live ones."""

    name: str
    role: str | None
    password: bool
    provider: bool
    created_at: datetime
    expires_at: datetime | None = None
    disabled_at: datetime | None = None
    last_seen_at: datetime | None = None
    sessions: int = 0
    secret: str | None = None  # only in the answer that made it up


class Accounts(Answer, frozen=True, kw_only=True):
    accounts: list[Account]


class RevealRequest(Body, frozen=True):
    """A look into the vault: why, at which packs. Only custodians and operators; always audited."""

    packs: Annotated[list[ShortText], Meta(min_length=1, max_length=1000)]
    purpose: Annotated[str, Meta(min_length=8, max_length=512)]


class Revealed(Answer, frozen=True, kw_only=True):
    names: dict[str, list[str]]


Purpose = Annotated[str, Meta(min_length=8, max_length=512)]


class VaultStatus(Answer, frozen=True, kw_only=True):
    """`generation` of the everyday key; `rekeying` while rows of the one before stand; `pair` is the name of the two
    key files for which originals are sealed, None where there are none."""

    site: str
    generation: int
    rekeying: bool
    pair: str | None


class VaultRevealRequest(Body, frozen=True):
    """A look at originals of numbers and subjects. `signature` proves that both key files are at hand."""

    names: Annotated[list[ShortText], Meta(min_length=1, max_length=1000)]
    purpose: Purpose
    signature: Annotated[str, Meta(max_length=256)] = ""


class VaultExportRequest(Body, frozen=True):
    """One page of the UID or the patient map of the project; `after` is the `next` of the page before."""

    what: Literal["uids", "patients"]
    purpose: Purpose
    signature: Annotated[str, Meta(max_length=256)] = ""
    after: Annotated[str, Meta(max_length=512)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class VaultCopy(Answer, frozen=True, kw_only=True):
    """An original as it is sealed for the two key files. `name` is what stands for it."""

    kind: Literal["number", "subject", "uid"]
    name: str
    copy: bytes


class VaultCopies(Answer, frozen=True, kw_only=True):
    """`unknown`: not of this project. `unsealed`: from before there were two key files; `skipped`: of other projects,
    or nobody's."""

    site: str
    copies: list[VaultCopy]
    unknown: list[str] = []
    unsealed: list[str] = []
    skipped: int = 0
    next: str | None = None


class VaultEraseRequest(Body, frozen=True):
    subject: ShortText
    purpose: Purpose


class VaultErased(Answer, frozen=True, kw_only=True):
    """What went (or would go) of a subject, by kind; `withdrawn` are its published slides, for whose bytes a person
    decides; `runs` hold one of them now."""

    subject: str
    planned: bool
    rows: dict[str, int]
    withdrawn: list[str]
    other_projects: dict[str, list[str]] = {}
    runs: list[str] = []


class VaultImportRow(Body, frozen=True):
    """One line of an honest broker's crosswalk: a patient and its pseudonym, or a file and its number."""

    line: Annotated[int, Meta(ge=1)]
    patient: Annotated[str, Meta(max_length=512)] = ""
    pseudonym: Annotated[str, Meta(max_length=512)] = ""
    offset_days: Annotated[int, Meta(ge=-36_500, le=36_500)] | None = None
    file: Annotated[str, Meta(max_length=4096)] = ""
    number: Annotated[str, Meta(max_length=512)] = ""


class VaultImportRequest(Body, frozen=True):
    rows: Annotated[list[VaultImportRow], Meta(min_length=1, max_length=1000)]
    purpose: Purpose


class VaultImportProblem(Answer, frozen=True, kw_only=True):
    """A line that was not taken, and why, without what stands in it."""

    line: int
    code: str
    shape: str = ""


class VaultImported(Answer, frozen=True, kw_only=True):
    planned: bool
    taken: int
    same: int
    problems: list[VaultImportProblem] = []


class DumpRequest(Body, frozen=True):
    """A dump of vault and catalog now. `policy`: which, where there are several."""

    policy: ShortText | None = None


class DumpCopy(Answer, frozen=True, kw_only=True):
    tier: str
    key: str
    state: Literal["whole", "damaged", "gone"]
    read_at: datetime


class DumpDrill(Answer, frozen=True, kw_only=True):
    """`read`: both copies were read whole and their structure held; that they open was not tried. `restore`: it was
    restored into a scratch database and every table was equal. `passed` is None while it runs."""

    id: str
    kind: Literal["read", "restore"]
    passed: bool | None
    explanation: str | None = None
    tables: int = 0
    rows: int = 0
    seconds: float | None = None
    started_at: datetime
    finished_at: datetime | None = None


class Dump(Answer, frozen=True, kw_only=True):
    """A sealed dump of vault and catalog. `taken_at`: what it holds is of that moment; `pair` opens it. Verified: two
    copies on two tiers were read back cold and have the same digest."""

    id: str
    policy: str
    state: Literal["making", "verified", "failed", "damaged", "gone"]
    reason: str | None = None
    explanation: str | None = None
    why: str
    pair: str | None = None
    digest: str | None = None
    size_bytes: int | None = None
    tables: int = 0
    rows: int = 0
    copies: list[DumpCopy] = []
    drills: list[DumpDrill] = []
    reasons: list[str] = []
    created_by: str
    started_at: datetime
    taken_at: datetime | None = None
    verified_at: datetime | None = None


class Dumps(Answer, frozen=True, kw_only=True):
    """Newest first. `release_stopped` says why no new slide is released, when none is."""

    dumps: list[Dump]
    release_stopped: str | None = None


class Need(Answer, frozen=True, kw_only=True):
    """What waits for a person. `now`: data or its protection is at stake, or work stands still; `soon`: it will be, or
    somebody else waits; `know`: tomorrow will do. `subject` where it is one thing, else `count` of them."""

    code: str
    severity: Literal["now", "soon", "know"]
    noun: str
    words: str
    hint: str
    count: int
    subject: str | None = None
    since: datetime | None = None
    # on whose page it is dealt with, where that is a tier's
    tier: str | None = None


class Needs(Answer, frozen=True, kw_only=True):
    """The most urgent first; only what the caller's role may read."""

    needs: list[Need]


class AlarmTelling(Answer, frozen=True, kw_only=True):
    """What one receiver was told, or is not yet: `given_up_at` where a week was not enough."""

    receiver: str
    event: Literal["opened", "grew", "reminded", "closed"]
    at: datetime
    told_at: datetime | None = None
    attempts: int = 0
    given_up_at: datetime | None = None


class Alarm(Answer, frozen=True, kw_only=True):
    """A need that an alarm policy wants told; `closed_at` is when nobody needed anything any more."""

    id: str
    code: str
    severity: Literal["now", "soon", "know"]
    noun: str
    subject: str | None = None
    words: str
    hint: str
    count: int
    opened_at: datetime
    closed_at: datetime | None = None
    tellings: list[AlarmTelling] = []


class AlarmPage(Answer, frozen=True, kw_only=True):
    alarms: list[Alarm]
    next: str | None = None


class AlarmTestRequest(Body, frozen=True):
    receiver: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]


class AlarmTest(Answer, frozen=True, kw_only=True):
    receiver: str
    told: bool
    # why not, and what to do
    problem: str | None = None


class PairPace(Answer, frozen=True, kw_only=True):
    source: str
    target: str
    bytes_s: list[float]


class Paces(Answer, frozen=True, kw_only=True):
    """How fast bytes went between tiers, of every project and node: one value for each begin of a step in `at`."""

    step_s: int
    at: list[datetime]
    pairs: list[PairPace]


class Filling(Answer, frozen=True, kw_only=True):
    """Seconds until the tier is full as it fills now: half of what was seen lies between early and late; null is not
    within a year."""

    rate_bytes_s: float
    likely_s: float | None
    early_s: float | None
    late_s: float | None


class TierLevels(Answer, frozen=True, kw_only=True):
    """`forecast` is null where less than a day is known."""

    tier: str
    capacity_bytes: int
    at: list[datetime]
    used_bytes: list[int]
    forecast: Filling | None = None


class Levels(Answer, frozen=True, kw_only=True):
    """How full tiers were. Tiers that do not say (buckets) are not among them."""

    tiers: list[TierLevels]


class Shard(Answer, frozen=True, kw_only=True):
    """A piece of work. `failures` of its `claims`; `not_before`: tried again then. `bytes` and `done_bytes` of one that
    stages for the run that was asked for."""

    id: str
    queue: str
    kind: str
    subject: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    priority: int
    members: int
    claims: int
    failures: int
    holder: str | None = None
    code: str | None = None
    explanation: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    lease_until: datetime | None = None
    not_before: datetime | None = None
    bytes: int | None = None
    done_bytes: int | None = None


class ShardPage(Answer, frozen=True, kw_only=True):
    shards: list[Shard]
    next: str | None = None


class Node(Answer, frozen=True, kw_only=True):
    """A daemon; `shards` of the caller's project are in its hands."""

    id: str
    version: str
    started_at: datetime
    seen_at: datetime
    shards: int


class Nodes(Answer, frozen=True, kw_only=True):
    nodes: list[Node]


class UsageFolder(Answer, frozen=True, kw_only=True):
    """`name` ends with a slash; null is what stands right in the folder. `age_s` is the mean of its bytes' ages."""

    name: str | None
    count: int
    bytes: int
    age_s: float


class UsageCell(Answer, frozen=True, kw_only=True):
    """`size` and `age` are places between the bounds: 0 is below the first."""

    size: int
    age: int
    count: int
    bytes: int


class Usage(Answer, frozen=True, kw_only=True):
    """What the scans of the project know of a tier, below a folder. `folders` is null on identified tiers, where they
    are names; `whole` is false where there is more than one look counts."""

    tier: str
    folder: str
    count: int
    bytes: int
    whole: bool
    sizes: list[int]
    ages_s: list[int]
    folders: list[UsageFolder] | None
    cells: list[UsageCell]


class Duplicate(Answer, frozen=True, kw_only=True):
    """One content that stands more than once; `bytes` of one of them. `keys` are a few, null on identified tiers."""

    digest: str
    count: int
    bytes: int
    spare_bytes: int
    keys: list[str] | None


class DuplicatePage(Answer, frozen=True, kw_only=True):
    duplicates: list[Duplicate]
    next: str | None = None


class ColdItem(Answer, frozen=True, kw_only=True):
    """A folder (its name ends with a slash; null is what stands right here), a slide, a run or a cohort (null: none).
    `used_at` is the last use that is known of any of it, `how` what that was."""

    name: str | None
    count: int
    bytes: int
    used_at: datetime
    how: Literal["written", "staged", "viewed"]


class ColdPage(Answer, frozen=True, kw_only=True):
    """What of a tier nobody used for `older_s`, the longest unused first. Where it is not `whole`, by folder of the
    first million files below it, by name, and by slide without what runs of long ago staged."""

    tier: str
    by: Literal["folder", "slide", "run", "cohort"]
    folder: str
    older_s: int
    items: list[ColdItem]
    next: str | None = None
    whole: bool = True


class AgeBytes(Answer, frozen=True, kw_only=True):
    """`age` is a place between the bounds: 0 is below the first."""

    age: int
    count: int
    bytes: int


class TierAge(Answer, frozen=True, kw_only=True):
    """How long ago what stands on a tier was last used: the oldest, and half of it longer ago than the median. Where it
    is not `whole`, of the first million files that scans saw, by name; nothing is said of the others."""

    tier: str
    count: int
    bytes: int
    oldest_s: float
    median_s: float
    by_age: list[AgeBytes]
    whole: bool = True


class TierAges(Answer, frozen=True, kw_only=True):
    """Tiers of which neither slides nor scans tell anything are not among them."""

    ages_s: list[int]
    tiers: list[TierAge]


class ColdChoice(Body, frozen=True):
    """Every slide on a tier, below a folder, that nobody used for so long."""

    tier: ShortText
    older_s: Annotated[int, Meta(ge=86_400, le=3_155_760_000)]
    folder: Annotated[str, Meta(max_length=4096)] = ""


class TagChangeRequest(Body, frozen=True):
    """A tag for slides, or off them: those that an expression selects, that a list names, or that are cold. A tag holds
    no name of anybody: the whole project reads it."""

    tag: ShortText
    action: Literal["add", "remove"] = "add"
    expression: Annotated[str, Meta(min_length=1, max_length=8192)] | None = None
    numbers: Annotated[list[ShortText], Meta(min_length=1, max_length=1_000_000)] | None = None
    cold: ColdChoice | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""


class TagChange(Answer, frozen=True, kw_only=True):
    """`count` slides were changed by it; those that were so already are not among them. `undoes`: it took that change
    back; `undone_by`: that one took it back."""

    id: str
    tag: str
    action: Literal["add", "remove"]
    chosen: str
    count: int
    bytes: int
    reason: str
    undoes: str | None = None
    undone_by: str | None = None
    created_by: str
    created_at: datetime


class TagChangePage(Answer, frozen=True, kw_only=True):
    changes: list[TagChange]
    next: str | None = None


class TagUse(Answer, frozen=True, kw_only=True):
    tag: str
    slides: int
    bytes: int
    changed_at: datetime


class Tags(Answer, frozen=True, kw_only=True):
    """The most frequent first."""

    tags: list[TagUse]


class OnItsWay(Answer, frozen=True, kw_only=True):
    """What is worked on: `done` of `total` (0 where nobody counts), and about until when at the pace so far; of a ready
    run, its lease."""

    noun: Literal["run", "batch", "record", "transfer", "verification", "restore", "scan"]
    id: str
    state: str
    done: int
    total: int
    unit: Literal["bytes", "packs"]
    until: datetime | None = None


class LastTime(Answer, frozen=True, kw_only=True):
    """When what must happen again and again happened last, and well; null: never."""

    what: Literal["snapshot", "restore drill", "dump", "dump drill", "checkpoint", "scan"]
    at: datetime | None = None


class Reload(Answer, frozen=True):
    """What was taken, what is followed from the next start on, and what could not be taken and changed nothing."""

    taken: list[str]
    restart: list[str]
    refused: list[str]


class Status(Answer, frozen=True, kw_only=True):
    version: str
    node: str
    project: str
    actor: str
    role: str
    database: str
    shards: dict[str, int]
    tiers: list[Tier]
    # what a person should see to, in words
    warnings: list[str] = []
    # the oldest of what is on its way, and of what the caller may read
    moving: list[OnItsWay] = []
    last: list[LastTime] = []


class Health(Answer, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"
    version: str
