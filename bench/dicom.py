"""P15: DICOM objects de-identified per second, on two cores, at full depth, with the pixel data copied.

Everybody gets the same series of CT slices with the headers that scanners write: nested sequences, private groups,
people and places in descriptions. Ours surveys, plans, proves by other parsers, digests and makes durable, group by
group, clocked inside a process whose sandbox is warm (a daemon's); the whole process stands beside. Its rules trust
objects that say no text is burned in, because no peer looks at pixels, and outputs are not read back, because no peer
does that either; with the reading back of the one-shot command it stands beside, and at the full scale with eyes open,
at a few objects a second. The peers run once over the folder, as they come, and as two processes over halves of it,
which is how one would use two cores; their outputs are digested by one more process, and synced like everybody's.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bench import peers
from bench.context import Context, Course, compete, inside
from bench.corpora import Corpus
from bench.measure import Contestant, RunFailed, Step, Work
from bench.peers import Peer

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

OURS, OURS_COLD, OURS_EYES = "ours", "ours, outputs read back from the device", "ours, pictures read for text"
DICOGNITO, DICOGNITO_TWICE = "dicognito", "dicognito, two processes"
ANONYMIZER, ANONYMIZER_TWICE = "dicom-anonymizer", "dicom-anonymizer, two processes"
EDGE_PX: Final = 512
SLICES: Final = 50  # of one series; two series make a study, and every patient has one
GROUP: Final = 120  # at most, of one child and of one commit
THREADS: Final = 3  # two children work while the third group becomes durable


def objects(context: Context) -> None:
    count = context.sizes.dicom_objects
    place = context.large_place("p15", 10 * count * 600_000)
    corpus = series(place.folder / "corpus", count)
    course = _ObjectCourse(context=context, corpus=corpus, place=place, discard=True)
    tools = [_ours(), _ours(OURS_COLD, "cold"), *_peers()]
    if context.sizes.name == "full":
        tools.append(_ours(OURS_EYES, "eyes", rounds=1))
    found = compete(course, tools, amount=count, unit="objects/s", rounds=min(3, context.sizes.rounds))
    work = f"de-identify {count} CT objects of {EDGE_PX} x {EDGE_PX}, digested and durable"
    found.claim("P15", work, tool=inside(OURS), against=[DICOGNITO], goal=8.0)
    found.claim("P15-anonymizer", work, tool=inside(OURS), against=[ANONYMIZER], goal=8.0)
    place.remove()


class _ObjectCourse(Course, frozen=True, kw_only=True):
    """What comes out has other names and sizes than what went in; as many objects must come out."""

    def enter(self, peer: Peer) -> Contestant:
        def prepare(number: int) -> Work:
            target = self.place.fresh(self.output(peer, number))
            self.settle(number)
            steps = peer.steps(str(self.corpus.folder), str(target), str(self.context.scratch))
            return Work(steps, synced=str(target), own_clock=peer.own_clock, env=self.env)

        def check(number: int) -> None:
            target = self.place.folder / self.output(peer, number)
            made = [file.stat().st_size for file in target.rglob("*.dcm")]
            pixels = 2 * EDGE_PX * EDGE_PX
            if len(made) != self.corpus.files or min(made) < pixels:
                raise RunFailed(f"made {len(made)} objects of {self.corpus.files}, the least of {min(made, default=0)}")
            shutil.rmtree(target)

        return Contestant(peer.name, prepare, check, peer.rounds)


def _ours(name: str = OURS, *how: str, rounds: int = 0) -> Peer:
    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        return (Step((sys.executable, "-m", "bench.dicom", "ours", source, target, *how)),)

    return Peer(name, (), steps, tier=True, rounds=rounds)


def run_ours(source: str, target: str, *, eyes: bool = False, cold: bool = False) -> dict[str, float]:
    """The engine that batches and the one-shot command share: surveyed and prepared in the sandbox, two children at
    once; identities by the crosswalk of a file; outputs written by the one-shot's own group commit: digested while they
    are written, synced, and only then named. The one-shot reads them back before that, which no peer does: `cold`."""
    from bench.ours import _Clock
    from mover.deid.crosswalk import FileCrosswalk
    from mover.deid.deidentify import SLIDE_LIMITS
    from mover.deid.oneshot.shot import MODULES
    from mover.model.deid import PixelRules
    from mover.sandbox import Sandbox

    names = sorted(os.path.join(at, name) for at, _, files in os.walk(source) for name in files)
    rules = PixelRules(burned_in="ocr" if eyes else "trust")
    groups = 2 * -(-len(names) // (2 * GROUP))
    each = -(-len(names) // groups)
    chunks = [names[at : at + each] for at in range(0, len(names), each)]
    modules = (*MODULES, "mover.deid.pixels.warm") if eyes else MODULES
    with Sandbox(modules, limits=SLIDE_LIMITS, max_children=2) as sandbox, ThreadPoolExecutor(THREADS) as pool:
        with FileCrosswalk(Path(f"{target}.warm"), dry=True) as warm:
            _make(sandbox, warm, names[:1], rules, "", cold)
        clock = _Clock()
        with FileCrosswalk(Path(f"{target}.crosswalk")) as crosswalk:
            made = list(pool.map(lambda chunk: _make(sandbox, crosswalk, chunk, rules, target, cold), chunks))
        return clock.said(files=sum(made))


def _make(sandbox: Any, crosswalk: Any, chunk: list[str], rules: Any, target: str, cold: bool) -> int:
    """One group; nothing is written where there is no target."""
    from mover.deid.dicom import ObjectSurvey, PreparedObject, prepare_objects, survey_objects
    from mover.deid.identity import Aliases
    from mover.model.deid import DicomRules

    fds = [os.open(name, os.O_RDONLY | os.O_CLOEXEC) for name in chunk]
    try:
        surveys = [one for one in survey_objects(sandbox, fds) if isinstance(one, ObjectSurvey)]
        entities = list(dict.fromkeys(key for one in surveys for key in one.identity.entities))
        patients = [key for key in entities if key.startswith("patient|")]
        aliases = Aliases(
            number="0" * 17,
            subjects=crosswalk.subjects(patients),
            keys=crosswalk.keys([key for key in entities if key not in patients]),
            uids=crosswalk.uids(list(dict.fromkeys(uid for one in surveys for uid in one.identity.uids))),
        )
        answers = prepare_objects(sandbox, fds, aliases=aliases, rules=DicomRules(), pixels=rules)
        plans = [one.plan for one in answers if isinstance(one, PreparedObject)]
        if len(plans) != len(fds):
            sys.exit("an object was refused")
        if target:
            _write_group(target, list(zip(fds, plans, strict=True)), cold)
        return len(plans)
    finally:
        for fd in fds:
            os.close(fd)


def _write_group(target: str, group: list[tuple[int, Any]], cold: bool) -> None:
    from mover.deid.durable import Wanted, write_outputs

    wanted = [
        Wanted(Path(target) / f"{plan.facts.instance}.dcm", source, plan.recipe, os.fstat(source))
        for source, plan in group
    ]
    refused = [one for one in write_outputs(wanted, read_back=cold) if not isinstance(one, str)]
    if refused:
        sys.exit("an output was not what was written")


def _peers() -> list[Peer]:
    """The folder at once, and its two halves side by side. dicognito's console script calls its main without
    arguments and fails, so that the module is called."""
    python = str(peers.PEERS / "bin" / "python")

    def dicognito(source: str, target: str) -> str:
        return f"{shlex.quote(python)} -m dicognito -q --seed bench --output-dir {target} {source}"

    def anonymizer(source: str, target: str) -> str:
        return f"{shlex.quote(peers.find('dicom-anonymizer'))} {source} {target}"

    found = []
    for command, once, twice, program in (
        (dicognito, DICOGNITO, DICOGNITO_TWICE, "dicognito"),
        (anonymizer, ANONYMIZER, ANONYMIZER_TWICE, "dicom-anonymizer"),
    ):
        found.append(Peer(once, (program,), _one(command), rounds=2))
        found.append(Peer(twice, (program,), _two(command), rounds=2))
    return found


def _one(command: Any) -> Any:
    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        return (_shell(command(shlex.quote(source + "/a"), shlex.quote(target + "/a"))
                       + " && " + command(shlex.quote(source + "/b"), shlex.quote(target + "/b")), target),
                _digest(target))  # fmt: skip

    return steps


def _two(command: Any) -> Any:
    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        halves = [command(shlex.quote(f"{source}/{half}"), shlex.quote(f"{target}/{half}")) for half in "ab"]
        both = f"{halves[0]} & first=$!; {halves[1]}; second=$?; wait $first && exit $second"
        return (_shell(both, target), _digest(target))

    return steps


def _shell(script: str, target: str) -> Step:
    made = " ".join(shlex.quote(f"{target}/{half}") for half in "ab")
    return Step(("sh", "-c", f"mkdir -p {made}; ({script}) >/dev/null 2>&1"), silent=True)


def _digest(target: str) -> Step:
    return Step((sys.executable, "-m", "bench.dicom", "digest", target), silent=True)


def digest(folder: str) -> None:
    """Every file once through BLAKE3, by two threads: what ours does while it writes."""
    from blake3 import blake3

    def one(path: str) -> str:
        found = blake3()
        found.update_mmap(path)
        return found.hexdigest()

    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    with ThreadPoolExecutor(2) as pool:
        sys.stdout.write(f"{len(list(pool.map(one, files)))} files\n")


# --- what is de-identified -------------------------------------------------------------------------------


def series(folder: Path, count: int) -> Corpus:
    """CT slices in two folders, fifty to a series; every object has pixels and a UID of its own."""
    size_bytes = made = 0
    slices = _slices()
    while made < count:
        number = made // SLICES
        template = _template(random.Random(f"series {number}"), number)
        for slice_number in range(min(SLICES, count - made)):
            at = folder / "ab"[made % 2]
            at.mkdir(parents=True, exist_ok=True)
            path = at / f"S{number:03}I{slice_number:04}.dcm"
            _place(template, number, slice_number, slices[made % len(slices)])
            template.save_as(path, enforce_file_format=True)
            size_bytes += path.stat().st_size
            made += 1
    return Corpus(folder, made, size_bytes)


def _slices() -> list[bytes]:
    """Eight pictures like slices: an ellipse of soft tissue, a rim of bone, and the scanner's noise."""
    rng = np.random.default_rng(15)
    y, x = np.mgrid[0:EDGE_PX, 0:EDGE_PX].astype(np.float32) / EDGE_PX - 0.5
    found = []
    for number in range(8):
        body = (x / (0.36 + number / 200)) ** 2 + (y / 0.3) ** 2
        tissue = 1060.0 / (1 + np.exp(np.minimum(30 * (body - 1), 50))) + 700 * np.exp(-((body - 0.9) ** 2) / 0.003)
        found.append(np.clip(tissue + rng.normal(0, 12, tissue.shape), 0, 4095).astype("<i2").tobytes())
    return found


def _place(data: Dataset, number: int, slice_number: int, pixels: bytes) -> None:
    uid = f"1.2.826.0.1.3680043.8.1055.{number}.{slice_number}"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid
    data.InstanceNumber = slice_number + 1
    data.ImagePositionPatient = [-250.0, -250.0, 1.25 * slice_number]
    data.SliceLocation = 1.25 * slice_number
    data.ContentTime = f"12{slice_number:02}17.250000"
    data.PixelData = pixels


def _template(rng: random.Random, number: int) -> Dataset:
    """What a CT scanner says of one series: about 150 elements, with sequences and private groups."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence

    patient = number // 2
    name, mrn = f"Quarrington{patient:03}^Josephine", f"KH{60000000 + patient}"
    day = date(2019, 3, 4) + timedelta(days=patient)
    root = f"1.2.826.0.1.3680043.8.1055.9.{patient}"
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.file_meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.1055.1"
    data.SpecificCharacterSet = "ISO_IR 100"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"]
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "PerformedProcedureStepStartDate"):
        setattr(data, keyword, f"{day:%Y%m%d}")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "PerformedProcedureStepStartTime"):
        setattr(data, keyword, f"{rng.randint(8, 17):02}{rng.randint(0, 59):02}11.5")
    data.PatientName, data.PatientID, data.PatientBirthDate, data.PatientSex = name, mrn, "19500304", "F"
    data.PatientAge, data.PatientWeight, data.PatientAddress = "069Y", 71.5, "1200 Larchwood Lane, Eastmereford"
    data.PatientTelephoneNumbers, data.AccessionNumber, data.StudyID = (
        "(210) 555-3210",
        f"A19-{patient:06}",
        str(patient),
    )
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{root}.1", f"{root}.1.{number}"
    data.FrameOfReferenceUID, data.SeriesNumber, data.AcquisitionNumber = f"{root}.2", number % 2 + 1, 1
    data.Modality, data.Manufacturer, data.ManufacturerModelName = "CT", "Imaginary Imaging", "Model Seven"
    data.InstitutionName, data.InstitutionAddress = "St. Brendanus Infirmary", "1 Harbour Hill, Eastmereford"
    data.ReferringPhysicianName, data.PerformingPhysicianName = "Oberlechner^Dagobert^^Dr.", "Thistlewood^Euphemia"
    data.OperatorsName, data.StationName, data.DeviceSerialNumber = "tech.hyacinth", "CTSTAT7", "SN4471108"
    data.InstitutionalDepartmentName, data.SoftwareVersions = "Radiology East", ["7.1.3", "HD2"]
    data.StudyDescription, data.SeriesDescription = "CT chest with contrast", f"thorax 1.25 {name.split('^')[0]}"
    data.ProtocolName, data.BodyPartExamined, data.PatientPosition = "5.7 Thorax routine", "CHEST", "FFS"
    data.ContrastBolusAgent, data.ScanOptions, data.ConvolutionKernel = "APPLIED", "HELICAL MODE", "STANDARD"
    numbers = {
        "SliceThickness": 1.25, "KVP": 120, "DataCollectionDiameter": 500, "ReconstructionDiameter": 360,
        "DistanceSourceToDetector": 949.1, "DistanceSourceToPatient": 541.0, "GantryDetectorTilt": 0,
        "TableHeight": 157.5,
        "ExposureTime": 600, "XRayTubeCurrent": 240, "Exposure": 144, "GeneratorPower": 28800, "RevolutionTime": 0.6,
        "SingleCollimationWidth": 0.625, "TotalCollimationWidth": 40, "TableSpeed": 66.6, "TableFeedPerRotation": 39.4,
        "SpiralPitchFactor": 0.984, "CTDIvol": 11.4, "RescaleIntercept": -1024, "RescaleSlope": 1, "WindowCenter": 40,
        "WindowWidth": 400,
    }  # fmt: skip
    for keyword, value in numbers.items():
        setattr(data, keyword, value)
    data.RotationDirection, data.FilterType, data.ExposureModulationType = "CW", "BODY FILTER", "ANGULAR"
    data.FocalSpots, data.PixelSpacing = [0.7], [0.703125, 0.703125]
    data.ImageOrientationPatient, data.RescaleType = [1, 0, 0, 0, 1, 0], "HU"
    data.DateOfLastCalibration, data.TimeOfLastCalibration = f"{day:%Y%m%d}", "060000"
    data.RequestAttributesSequence = Sequence([_request(mrn, name, patient)])
    data.ProcedureCodeSequence = Sequence([_code("24627-2", "LN", "CT chest")])
    data.ReferencedStudySequence = Sequence([_reference("1.2.840.10008.3.1.2.3.1", f"{root}.7")])
    data.ReferencedImageSequence = Sequence([_reference(data.SOPClassUID, f"{root}.8.{i}") for i in range(3)])
    data.OtherPatientIDsSequence = Sequence([_other(f"{mrn}-OLD")])
    for group, creator in ((0x0009, "IMAGINARY_IDEN_01"), (0x0019, "IMAGINARY_ACQU_01"), (0x0043, "IMAGINARY_PARM_01")):
        block = data.private_block(group, creator, create=True)
        for offset in range(1, 16):
            block.add_new(offset, "LO" if offset % 3 else "DS", f"{mrn}.{offset}" if offset % 3 else "1.5")
    data.SamplesPerPixel, data.PhotometricInterpretation, data.BurnedInAnnotation = 1, "MONOCHROME2", "NO"
    data.Rows = data.Columns = EDGE_PX
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.add_new(0x7FE00010, "OW", b"")
    return data


def _request(mrn: str, name: str, patient: int) -> Dataset:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = f"RP{patient}", f"SPS{mrn}"
    item.RequestedProcedureDescription = f"CT for {name.split('^')[0]}"
    item.ScheduledProtocolCodeSequence = Sequence([_code("CTCH", "99LOCAL", "chest routine")])
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _reference(sop_class: str, instance: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


def _other(mrn: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.PatientID, item.TypeOfPatientID, item.IssuerOfPatientID = mrn, "TEXT", "St. Brendanus Infirmary"
    return item


def main(words: list[str]) -> None:
    if words[:1] == ["digest"] and len(words) == 2:
        digest(words[1])
    elif words[:1] == ["ours"] and len(words) in (3, 4):
        said = run_ours(words[1], words[2], eyes="eyes" in words[3:], cold="cold" in words[3:])
        sys.stdout.write(json.dumps(said) + "\n")
    else:
        sys.exit("python -m bench.dicom digest FOLDER | ours SOURCE TARGET [eyes | cold]")


if __name__ == "__main__":
    main(sys.argv[1:])
