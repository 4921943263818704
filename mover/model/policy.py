"""Policies: what people declare in YAML. One file, one policy; `kind` says which step it is for.

`mover.policy` reads the files and reports mistakes as file:line:column; these types say what may stand there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from mover.model.deid import Approval, Basis, DicomRules, PixelRules, SlideRules
from mover.model.moving import Keep
from mover.model.tiers import TraitName

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{1,40}$")]


class KeepRules(Struct, frozen=True, forbid_unknown_fields=True):
    """Which snapshots a policy keeps; no rule at all keeps everything. `within_s` counts back from the newest
    record, not from now: a machine that stood still for a year must not lose its snapshots for it. Zero and
    None mean: no such rule."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_s: int | None = None
    tags: tuple[str, ...] = ()
    # on record for less than this, a snapshot is kept and displaces none: the time people have to notice
    at_least_s: Annotated[int, Meta(ge=3600)] = 7 * 86_400

    @property
    def none(self) -> bool:
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        return not any(counts) and self.within_s is None and not self.tags


# Families with a writer and a verifier.
FAMILIES = (
    "aperio-svs", "hamamatsu-ndpi", "hamamatsu-vms", "mirax", "leica-scn", "ventana-bif", "philips-tiff", "ome-tiff",
    "generic-tiff", "dicom-wsm", "dicom",
)  # fmt: skip


# How many persons decide about what waits in quarantine: of a policy, and of single reason codes.
Reviewers = Literal[1, 2]
ReasonCode = Annotated[str, Meta(pattern=r"^[a-z]+(-[a-z]+)*$")]


class ImagesPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="images", tag_field="kind"):
    """Step 1: packs of a declared batch become de-identified slides in the archive."""

    name: Name
    source: Name = field(name="from")
    archive: Name = field(name="to")
    accept: tuple[str, ...] = FAMILIES
    require_thumbnail: bool = True
    # of these kinds a pack needs no thumbnail even where one is required: few sites export one
    without_thumbnail: tuple[Literal["mirax", "vms", "dicom"], ...] = ("mirax", "vms", "dicom")
    # any: files without a suffix, or named by numbers and dots, are DICOM objects too
    dicom_names: Literal["suffix", "any"] = "suffix"
    # one object of a folder may not pass: the folder waits, or the others are published and the decisions say so
    refused_objects: Literal["quarantine", "leave"] = "quarantine"
    # the de-identification profile; without one the profile called `default`, or the narrowest rules there are
    profile: Name | None = None
    thumbnail_edge_px: Annotated[int, Meta(ge=64, le=8192)] = 1024
    packs_per_shard: Annotated[int, Meta(ge=1, le=1000)] = 8
    # a file of this name in a folder declares the folder as a batch; its lines are the expected names
    marker: str | None = None
    # what the archive must be able to do besides (`object_lock`, `versioning`); refused at start where it is not
    needs: tuple[TraitName, ...] = ()
    # who decides about what waits in quarantine: one person, or one and another who confirms; none: two where a proof
    # found identity, else one
    reviewers: Reviewers | None = None
    reviewers_of: dict[ReasonCode, Reviewers] = {}


ColumnClass = Literal[
    "drop",  # never leaves the vault's side
    "image",  # original image file name: the key to a slide, replaced by its number
    "case",  # a case or accession: links tables, replaced by a pseudonym or dropped
    "patient",  # a patient id: replaced by the patient's pseudonym
    "block",  # a block's or a barcode's text: its case, block and slide replaced by their pseudonyms
    "slide",  # a slide's own id that is no file name: replaced by a pseudonym
    "date",  # shifted by the patient's offset, or year only
    "age",  # integer, 90 and above become 90
    "zip3",  # first three digits where the area is populous enough, else 000
    "integer",
    "number",
    "boolean",
    "enum",  # one of `values`, after `map`
    "code",  # a code of a public system, by the grammar that `code` names
    "text",  # free text: dropped, or scrubbed where an approval says so
]

# Public code systems whose codes say nothing of a person but what they were made to say.
CodeSystem = Literal["icd10", "icdo3", "tnm", "stage", "grade", "gleason"]


class ColumnRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of one column. `rename` is the fact's name in cohorts; default the column's own."""

    rule: ColumnClass = field(name="class")
    rename: str | None = field(name="as", default=None)
    # of an enumeration its words; of free text further words that may stay; of all else words for no value (`n/a`)
    values: tuple[str, ...] = ()
    map: dict[str, str] = {}
    # a key inside the cell: the one group of this regular expression (barcode `D19-1;B6;24` -> case `D19-1`)
    pattern: str | None = None
    # of a date, in strptime's letters: one, or several that are tried in order; ISO when absent
    format: str | tuple[str, ...] | None = None
    dates: Literal["year", "shift", "drop"] = "year"
    # how a shifted date is written in a released table: `date` 2019-07-11, `ordinal` 2019-192 (both ISO 8601).
    # No original is written like an ordinal date, so a search of the output for originals stays without false alarms
    write: Literal["date", "ordinal"] = "date"
    birth: bool = False                     # years that reveal an age above 89 are held at the edge
    decimal: Literal[".", ",", "any"] = "."  # any: both, and groups of thousands
    minimum: float | None = None
    maximum: float | None = None
    units: tuple[str, ...] = ()  # that may follow a number or an age: `20x`, `18.7 mm`
    # of a number or an age: down to the next multiple (age 57 in steps of 10 is 50); then it is not kept as written
    round: Annotated[float, Meta(gt=0)] | None = None
    quasi: bool = False  # counted in k-anonymity
    optional: bool = False  # the column may be absent from the file
    code: CodeSystem | None = None
    text: Literal["drop", "scrub"] = "drop"


class TableRule(Struct, frozen=True, forbid_unknown_fields=True):
    """One declared table. A table reaches the image directly (`image` column) or through a case or a patient
    that another table ties to images."""

    name: Name
    columns: dict[str, ColumnRule]
    encoding: Literal["auto", "utf-8", "utf-16", "cp1252", "cp1250", "latin-1", "latin-2"] = "auto"
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    one_row_per: Literal["image", "case", "patient"] = "image"
    comment: str = "#"                      # lines that begin so are no rows; empty: every line counts
    # a row with a cell that is not of its class is a conflict; more than this share of them stops the file
    misfits_percent: Annotated[float, Meta(ge=0, le=100)] = 5.0
    # a column that is not listed stops the file, or is left out of a released table and counted
    others: Literal["refuse", "drop"] = "refuse"


# Taken off a file name before matching, repeatedly, case-folded; misspellings are never guessed.
EXTENSIONS = (".svs", ".ndpi", ".tif", ".tiff", ".ome", ".mrxs", ".scn", ".bif", ".jpg", ".dcm")


class RecordsPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="records", tag_field="kind"):
    """Step 2: declared tables are matched to images by original file name, then stripped of identifiers.
    A column that is not listed stops the file."""

    name: Name
    source: Name = field(name="from")
    tables: tuple[TableRule, ...] = field(default=())
    extensions: tuple[str, ...] = EXTENSIONS
    basis: Literal["safe-harbor", "expert-determination"] = "safe-harbor"
    minimum_k: int = 0
    # as of images: who decides about a set that waits in quarantine
    reviewers: Reviewers | None = None
    reviewers_of: dict[ReasonCode, Reviewers] = {}


class DeidPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="deid", tag_field="kind"):
    """A de-identification profile: what may pass of slides, DICOM objects and tables. Without one these defaults hold,
    the narrowest there are; an option that keeps more needs an approval of its own, which certificates repeat."""

    name: Name = "default"
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+-]{0,39}$")] = "1"
    basis: Basis = "none"
    determination: str = ""  # with `expert-determination`: number or title of the expert's signed report
    dicom: DicomRules = DicomRules()
    pixels: PixelRules = PixelRules()
    slides: SlideRules = SlideRules()
    # released with their rows in order; a table is known by its columns, not by its file's name
    tables: tuple[TableRule, ...] = ()
    extensions: tuple[str, ...] = EXTENSIONS
    # groups smaller than this lose their quasi-identifiers; 0 only reports the smallest
    minimum_k: Annotated[int, Meta(ge=0, le=10_000)] = 0
    approvals: tuple[Approval, ...] = ()


class StagePolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="stage", tag_field="kind"):
    """Step 3: a cohort's slides on flash, in a private run root."""

    name: Name
    archive: Name = field(name="from")
    flash: Name = field(name="to")
    layout: Literal["flat", "number", "label", "shards"] = "number"
    layout_label: str | None = None         # the fact that names the folders of layout `label`
    shard_bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)] = 256 << 20   # the most in a tar of layout `shards`
    # a slide whose patient nobody knows, in a run with splits: whether it is in two of them nobody can say
    unknown_patients: Literal["refuse", "allow"] = "refuse"
    lease_s: Annotated[int, Meta(ge=60)] = 86_400
    reserve_bytes: Annotated[int, Meta(ge=0)] = 0
    entries_per_shard: Annotated[int, Meta(ge=1, le=10_000)] = 4096   # and at most 8 GiB


class FolderRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A folder of this node that is protected by itself, read with the daemon's own rights: at the times of `cron`, or
    `settled_s` after its last change; with neither only when somebody asks."""

    name: Name
    path: Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=4096)]
    cron: str | None = None                 # minute hour day month weekday, as `0 2 * * 1-5`
    time_zone: str | None = None            # whose clock `cron` is in, as `Europe/Berlin`; UTC without
    settled_s: Annotated[int, Meta(ge=1, le=604_800)] | None = None


class SecondRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A second repository, on another tier: kept snapshots are carried there, and damage is repaired from it."""

    repository: Name = field(name="to")
    prefix: str = ""
    every_s: Annotated[int, Meta(ge=60)] = 3_600


class ProtectPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="protect", tag_field="kind"):
    """Step 4: artifacts, code, manifest and environment into a repository any restic can read."""

    name: Name
    flash: Name = field(name="from")
    repository: Name = field(name="to")
    prefix: str = ""
    keep: KeepRules = KeepRules()
    # what no rule keeps waits this long in the trash before its file goes; what shortens protection waits `delay_s`
    # and for a second person; at most this part of the snapshots goes to the trash in a day
    trash_s: Annotated[int, Meta(ge=3600)] = 14 * 86_400
    delay_s: Annotated[int, Meta(ge=3600)] = 3 * 86_400
    breaker_percent: Annotated[int, Meta(ge=1, le=100)] = 10
    # how often packs that no snapshot needs are looked for, and how long one is marked before it goes: longer than any
    # snapshot runs
    prune_every_s: Annotated[int, Meta(ge=3600)] = 86_400
    prune_grace_s: Annotated[int, Meta(ge=3600)] = 2 * 86_400
    # besides the run's own out/, artifact and code paths must lie under one of these (absolute paths)
    roots: tuple[str, ...] = ()
    # plain folders besides what runs leave
    folders: tuple[FolderRule, ...] = ()
    # a few random files are restored and compared every so often; packs are read again, a share and now and then all
    drill_every_s: Annotated[int, Meta(ge=60)] = 3_600
    sample_every_s: Annotated[int, Meta(ge=60)] = 86_400
    sample_percent: Annotated[float, Meta(gt=0, le=100)] = 2.0
    whole_every_s: Annotated[int, Meta(ge=3600)] = 30 * 86_400
    # a second repository of the same snapshots
    copy: SecondRule | None = None
    # targets, with an alarm beyond them: to bring back the newest snapshot of the largest series, and the age of the
    # oldest change that no snapshot holds
    recovery_time_s: Annotated[int, Meta(ge=1)] | None = None
    recovery_point_s: Annotated[int, Meta(ge=1)] | None = None
    # object tiers: nothing of the repository can be deleted for so long after it was last needed; renewed while a
    # snapshot that is kept needs it. `compliance`: by nobody; `governance`: by who has the store's special right
    lock_s: Annotated[int, Meta(ge=86_400, le=3_155_760_000)] | None = None
    lock_mode: Literal["compliance", "governance"] = "compliance"
    # posix tiers: files become immutable once they are published; who prunes is root, not the daemon
    append_only: Literal["chattr"] | None = None


class HookRule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An executable of the node's folder of hooks, by its name there: what it does is root's to say, never a policy's
    (D22)."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    # then it is killed, and has failed. It holds one of the few workers of its node meanwhile
    timeout_s: Annotated[int, Meta(ge=1, le=300)] = 60
    # an unprivileged user of the node; without one the daemon's own, without its capabilities
    user: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = None


class CleanPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="clean", tag_field="kind"):
    """Step 5: the run root goes once protection is proved; strangers are moved aside and reported."""

    name: Name
    flash: Name = field(name="from")
    automatic: bool = False  # clean as soon as the run is protected
    # one after the other: before the root is touched (one that fails leaves all as it is), and when it is gone
    before_clean: Annotated[tuple[HookRule, ...], Meta(max_length=16)] = ()
    after_clean: Annotated[tuple[HookRule, ...], Meta(max_length=16)] = ()
    # strays of cleaned runs and damaged content are held so long, and then go, on record; null: for ever
    aside_s: Annotated[int, Meta(ge=86_400)] | None = 90 * 86_400


Limit = Annotated[int, Meta(ge=1)] | Literal["unlimited"] | None
Minute = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
LIMIT_NAMES = (
    "read_bytes_s", "write_bytes_s", "read_files_s", "write_files_s", "open_files", "memory_bytes",
)  # fmt: skip


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of a tier may be used. What is not named is not limited; in a window it stays as it is outside,
    and `unlimited` lifts it."""

    read_bytes_s: Limit = None
    write_bytes_s: Limit = None
    read_files_s: Limit = None
    write_files_s: Limit = None
    open_files: Limit = None
    memory_bytes: Limit = None


class BudgetWindow(Limits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Other limits from one minute to another, in the wall clock of the policy's time zone. One that ends at or
    before it begins goes on over midnight and belongs to the day it began."""

    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    begin: Minute = field(name="from")
    end: Minute = field(name="to")


class BackoffRule(Struct, frozen=True, forbid_unknown_fields=True):
    """When steps take `factor` times as long as in quiet times, rate and concurrency are multiplied by `cut`, down
    to the part `least`; without trouble they come back evenly, from nothing to all in `recover_s`."""

    factor: Annotated[float, Meta(gt=1, le=100)] = 2.0
    cut: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    least: Annotated[float, Meta(gt=0, le=1)] = 0.02
    recover_s: Annotated[float, Meta(ge=1)] = 120.0


class BudgetPolicy(Limits, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="budget", tag_field="kind"):
    """What the daemons together may ask of a tier; without a tier, what each daemon may ask of all tiers. The first
    window that is open and names a limit replaces it."""

    name: Name
    tier: Name | None = None
    time_zone: str | None = None            # of the windows, as `Europe/Berlin`
    windows: tuple[BudgetWindow, ...] = ()
    backoff: BackoffRule | None = BackoffRule()     # null: never give way


class VerifyPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="verify", tag_field="kind"):
    """A tier is read again, oldest proof first, a share of its bytes a day; what differs from the catalog is
    reported, and repaired from a second copy where one is named."""

    name: Name
    tier: Name
    prefix: str = ""
    every_s: Annotated[int, Meta(ge=60)] = 86_400
    share_per_day: Annotated[float, Meta(gt=0, le=1)] = 1 / 30
    strangers: bool = True                  # also list the tier, to find what the catalog does not know
    repair_from: Name | None = None


class ArchivePolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="archive", tag_field="kind"):
    """Published slides stay stageable: a second copy on another tier, both read again now and then, each repaired from
    the other, and locks for as long as a kept manifest names the slide. Nothing is ever removed by it."""

    name: Name
    tier: Name
    second_copy: Name | None = None
    every_s: Annotated[int, Meta(ge=60)] = 3_600
    # where there are two copies, this part of each is read again a day, oldest proof first
    share_per_day: Annotated[float, Meta(gt=0, le=1)] = 1 / 30
    # object tiers: what a kept manifest names cannot be deleted for so long, and is locked anew at half of it
    lock_s: Annotated[int, Meta(ge=86_400, le=3_155_760_000)] | None = None
    lock_mode: Literal["compliance", "governance"] = "compliance"


class ReleaseRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to sources once their copies are proved: moved aside, held, then purged. Beyond `entries` and
    `percent` of the tier (whichever is more) a second person approves."""

    hold_s: Annotated[int, Meta(ge=0, le=315_360_000)] = 7 * 86_400
    entries: Annotated[int, Meta(ge=0)] = 100
    percent: Annotated[float, Meta(ge=0, le=100)] = 1.0


class MoveLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of one source of one transfer, beside the budgets of its tier; null: no bound."""

    bytes_s: Annotated[int, Meta(ge=1)] | None = None
    files_s: Annotated[int, Meta(ge=1)] | None = None
    shards: Annotated[int, Meta(ge=1, le=1000)] | None = None


class MovePolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="move", tag_field="kind"):
    """Entries of a tier that meet a condition are copied to another, again and again; with `release`, their sources
    leave. `when` is a condition as `mover.decide.moving` reads it; without `every_s` only people start it."""

    name: Name
    source: Name = field(name="from")
    target: Name = field(name="to")
    prefix: str = ""
    to_prefix: str = ""
    when: str | None = None
    release: ReleaseRule | None = None
    every_s: Annotated[int, Meta(ge=60)] | None = None
    keep: Keep = Keep()
    canary: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    limits: MoveLimits = MoveLimits()
    # what the target must be able to do besides; refused at start where it is not
    needs: tuple[TraitName, ...] = ()
    # an entry that cannot be moved stops the whole, or is reported while the rest moves
    offenders: Literal["refuse", "report"] = "report"
    tries: Annotated[int, Meta(ge=1, le=10)] = 3


class DumpPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="dump", tag_field="kind"):
    """Vault and catalog as one sealed dump a night, on two tiers. Only the two key files open it. While the newest
    verified one is older than `max_age_s`, no new slide is released."""

    name: Name
    targets: tuple[Name, Name] = field(name="to")
    prefix: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9/-]{0,100}$")] = "dumps"
    at: Minute = "02:30"
    time_zone: str = "UTC"                  # whose clock `at` is in, as `Europe/Berlin`
    # besides these the two newest verified ones always stay
    keep: KeepRules = KeepRules(last=7, weekly=5, monthly=12)
    max_age_s: Annotated[int, Meta(ge=3600)] = 129_600
    # both copies are read again whole; restored into a scratch database too, where this machine has been given keys
    drill_every_s: Annotated[int, Meta(ge=3600)] = 604_800


class AuditPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="audit", tag_field="kind"):
    """Where the audit chains end is signed and written to other tiers, whenever they have grown: what is rewritten in
    the database afterwards no longer fits what stands there."""

    name: Name
    targets: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=4)] = field(name="to")
    every_s: Annotated[int, Meta(ge=10)] = 3600


class AlarmPolicy(Struct, frozen=True, forbid_unknown_fields=True, tag="alarm", tag_field="kind"):
    """Needs of at least this severity (`mover needs`) are told to receivers that the settings declare: a policy names
    them and holds no address."""

    name: Name
    receivers: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=20)] = field(name="to")
    severity: Literal["now", "soon", "know"] = "now"
    codes: tuple[Annotated[str, Meta(pattern=r"^[a-z]+(-[a-z]+)*$")], ...] = ()  # these only; none: all
    after_s: Annotated[int, Meta(ge=0, le=86_400)] = 60
    again_s: Annotated[int, Meta(ge=600)] = 86_400


Policy = (
    ImagesPolicy
    | RecordsPolicy
    | DeidPolicy
    | StagePolicy
    | ProtectPolicy
    | CleanPolicy
    | BudgetPolicy
    | VerifyPolicy
    | ArchivePolicy
    | MovePolicy
    | DumpPolicy
    | AuditPolicy
    | AlarmPolicy
)
