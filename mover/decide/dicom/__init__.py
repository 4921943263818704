"""Judge DICOM objects: which elements stay, and what stands in the place of the others."""
