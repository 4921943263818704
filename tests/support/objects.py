"""Small DICOM objects of made-up people, by pydicom: nothing of ours is in them."""

from __future__ import annotations

import io

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset

CT, WSM, PDF = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.104.1"
ROOT = "1.2.826.0.1.3680043.8.498"
STUDY = f"{ROOT}.77"


def ct(instance: int, *, patient: str = "MRN-4711-0815", study: str = STUDY, series: int = 1, size: int = 32) -> bytes:
    """One slice: a gradient of its own, a patient, an accession number."""
    dataset = _header(CT, f"{study}.{series}.{instance}", patient)
    dataset.Modality, dataset.Manufacturer = "CT", "Scannermaker"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.{series}"
    dataset.FrameOfReferenceUID = f"{study}.9"
    dataset.InstanceNumber, dataset.SeriesNumber = instance, series
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, instance], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness, dataset.KVP = [0.5, 0.5], 1, 120
    dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1
    picture = (np.add.outer(np.arange(size), np.arange(size)) * 3 + instance).astype("<u2")
    return _with_pixels(dataset, picture)


def document(instance: int = 9) -> bytes:
    """An encapsulated PDF: a document that nobody can look into."""
    dataset = _header(PDF, f"{STUDY}.8.{instance}", "MRN-4711-0815")
    dataset.Modality, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "DOC", STUDY, f"{STUDY}.8"
    dataset.MIMETypeOfEncapsulatedDocument, dataset.EncapsulatedDocument = "application/pdf", b"%PDF-1.4 Quincy^Jane "
    return _file(dataset)


def whole_slide(series: int = 5) -> dict[str, bytes]:
    """A pyramid of two levels, and a picture of the label beside them."""
    return {
        "volume": _tiles(series, 1, "VOLUME", 128), "volume2": _tiles(series, 2, "VOLUME", 64),
        "label": _tiles(series, 3, "LABEL", 64),
    }  # fmt: skip


def _tiles(series: int, instance: int, flavour: str, matrix: int, tile: int = 64) -> bytes:
    dataset = _header(WSM, f"{STUDY}.{series}.{instance}", "MRN-4711-0815")
    dataset.Modality, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "SM", STUDY, f"{STUDY}.{series}"
    dataset.FrameOfReferenceUID, dataset.InstanceNumber = f"{STUDY}.{series}.9", instance
    dataset.ImageType = ["ORIGINAL", "PRIMARY", flavour, "NONE"]
    dataset.TotalPixelMatrixColumns = dataset.TotalPixelMatrixRows = matrix
    dataset.ImagedVolumeWidth = dataset.ImagedVolumeHeight = 1.0
    dataset.SpecimenLabelInImage = "YES" if flavour == "LABEL" else "NO"
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.ContainerIdentifier = "S24-771001;A1;3"
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [0.064 / matrix, 0.064 / matrix]
    shared.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    count = (matrix // tile) ** 2
    dataset.NumberOfFrames = count
    ramp = np.add.outer(np.arange(tile), np.arange(tile)).astype("u1")
    frames = np.stack([np.stack([ramp, ramp // 2, 255 - ramp], axis=-1) + index for index in range(count)])
    return _with_pixels(dataset, frames.astype("u1"))


def _header(sop_class: str, instance: str, patient: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = patient, "Quincy^Jane", "19550401"
    dataset.PatientSex, dataset.StudyDate, dataset.StudyTime = "F", "20240307", "101500"
    dataset.AccessionNumber, dataset.InstitutionName = "D24-771001", "Quincy General Hospital"
    dataset.StudyID, dataset.ReferringPhysicianName = "77", "House^Gregory"
    return dataset


def _with_pixels(dataset: Dataset, pixels: np.ndarray) -> bytes:
    colour = pixels.ndim == 4
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = pixels.shape[1:3] if colour else pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
    dataset.add_new(0x7FE00010, "OW" if dataset.BitsAllocated == 16 else "OB", pixels.tobytes())
    return _file(dataset)


def _file(dataset: Dataset) -> bytes:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made = io.BytesIO()
    pydicom.dcmwrite(made, dataset, enforce_file_format=True)
    return made.getvalue()
