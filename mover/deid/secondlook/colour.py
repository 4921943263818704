"""Look at a colour profile with LittleCMS: no text of it says more than colour management does.

The lists are written a second time: `mover.decide.redaction.icc` has the writer's.
"""

from __future__ import annotations

import io
import re
from typing import Final

from PIL import ImageCms

from mover.errors import RedactionUnproven

_TEXTS: Final = (
    "copyright", "manufacturer", "model", "profile_description", "target", "screening_description",
    "viewing_condition",
)  # fmt: skip
_STANDARDS: Final = re.compile(
    r"(?i)(IEC ?)?61966[-.]2[-._]1|ICC\.1:[0-9]{4}(-[0-9]{2})?|v?[0-9]{1,2}(\.[0-9]{1,3}){1,3}"
)
# Words of at most so many letters, and no two numbers side by side: a name may be one of them, a number or date not.
_SAFE: Final = re.compile(
    r"(?!.*[0-9]{5,6}(?![.-]|$))(?!.*[0-9][\s,;]+[0-9])(?!.*[0-9]{1,4}[-/.:][0-9]{1,2}[-/:][0-9])(?!.*@)[^\0-\x1f]{0,400}",
    re.DOTALL,
)


def check(profile: bytes) -> list[str]:
    """The texts a reader would show. Raises RedactionUnproven for one that holds a date, an address or a number, and
    for a profile LittleCMS cannot read."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        texts = [text for name in _TEXTS if (text := getattr(opened, name, None))]
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        raise RedactionUnproven("the colour profile cannot be read") from error
    for text in texts:
        if not isinstance(text, str) or not _SAFE.fullmatch(_without_standards(text)):
            raise RedactionUnproven("a text of the colour profile may not stand in the output")
    return [str(text) for text in texts]


def _without_standards(text: str) -> str:
    return re.sub(
        r"(?i)(IEC ?)?61966[-.]2[-._]1|ICC\.1:[0-9]{4}(-[0-9]{2})?|v?[0-9]{1,2}(\.[0-9]{1,3}){1,3}", " ", text
    )
