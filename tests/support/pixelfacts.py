"""Facts of a picture taken from a dataset by pydicom, beside the engine's own walker."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ImplicitVRLittleEndian

from mover.deid.pixels.words import Box, Palette, PixelFacts, PixelVerdict, Span
from mover.model.recipe import Copy
from mover.model.source import MemorySource


def read(path: Path | str) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        return dataset


def facts_of(dataset: Dataset) -> tuple[MemorySource, PixelFacts]:
    """A source that holds the pixels alone, and how to read them."""
    syntax = dataset.file_meta.TransferSyntaxUID
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    value = dataset.PixelData
    if syntax.is_compressed and syntax.is_encapsulated:
        frames = list(generate_frames(value, number_of_frames=count))
        value, each = b"".join(frames), [len(frame) for frame in frames]
    else:
        pixels = dataset.Rows * dataset.Columns
        size = pixels * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
        if dataset.PhotometricInterpretation == "YBR_FULL_422" and dataset.SamplesPerPixel == 3:
            size = pixels * 2
        each = [size] * count if dataset.BitsAllocated > 1 else [len(value)]
    starts = np.cumsum([0, *each]).tolist()
    spans = tuple((Span(start, length),) for start, length in zip(starts, each, strict=False))
    return MemorySource(value), PixelFacts(
        rows=dataset.Rows,
        columns=dataset.Columns,
        frames=spans,
        transfer_syntax="1.2.840.10008.1.2.1" if syntax.is_deflated else str(syntax),
        sop_class=str(dataset.get("SOPClassUID", "")),
        samples=dataset.SamplesPerPixel,
        photometric=dataset.PhotometricInterpretation,
        planar=int(dataset.get("PlanarConfiguration", 0) or 0),
        bits_allocated=dataset.BitsAllocated,
        bits_stored=int(dataset.get("BitsStored", 0) or dataset.BitsAllocated),
        signed=bool(dataset.get("PixelRepresentation", 0)),
        modality=str(dataset.get("Modality", "")),
        image_type=tuple(str(one).upper() for one in dataset.get("ImageType", ()) or ()),
        burned_in=str(dataset.get("BurnedInAnnotation", "")),
        regions=tuple(
            Box(one.RegionLocationMinX0, one.RegionLocationMinY0, one.RegionLocationMaxX1, one.RegionLocationMaxY1)
            for one in dataset.get("SequenceOfUltrasoundRegions", ())
        ),
        palettes=_palettes(dataset),
    )


def _palettes(dataset: Dataset) -> tuple[Palette, ...]:
    found = []
    for colour in ("Red", "Green", "Blue"):
        described = dataset.get(f"{colour}PaletteColorLookupTableDescriptor")
        plain = dataset.get(f"{colour}PaletteColorLookupTableData")
        segmented = dataset.get(f"Segmented{colour}PaletteColorLookupTableData")
        if described is None or (plain is None and segmented is None):
            return ()
        found.append(Palette(*map(int, described), bytes(plain or segmented), plain is None))
    return tuple(found)


def applied(source: MemorySource, verdict: PixelVerdict, dataset: Dataset) -> Dataset:
    """The dataset with the verdict carried out, as the engine would write it."""
    if verdict.segments is None:
        return dataset
    value = b"".join(
        source.read(part.offset, part.length) if isinstance(part, Copy) else part.data for part in verdict.segments
    )
    assert len(value) == verdict.length
    made = copy.deepcopy(dataset)
    made.PixelData = value
    if verdict.written is not None:
        now = verdict.written
        made.file_meta.TransferSyntaxUID = now.transfer_syntax
        made.PhotometricInterpretation = now.photometric
        made.SamplesPerPixel = now.samples
        if now.samples > 1:
            made.PlanarConfiguration = now.planar
        made.BitsAllocated, made.BitsStored, made.HighBit = now.bits_allocated, now.bits_stored, now.high_bit
        made.PixelRepresentation = int(now.signed)
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    return made
