"""Image files as pixels."""
from __future__ import annotations

from pathlib import Path

import numpy as np


def decode_image(data: bytes | np.ndarray, flag: int) -> np.ndarray | None:
    """The pixels of an image file's bytes (`flag`: cv2.IMREAD_...). None if OpenCV cannot read it, and for one whose
    header names more pixels than OpenCV allows, for which imdecode raises an exception."""
    import cv2
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flag) if len(data) else None
    except cv2.error:
        return None


def read_image(path: str, flag: int) -> np.ndarray | None:
    """The pixels of an image file. None if there is no such file, or it cannot be decoded."""
    return decode_image(Path(path).read_bytes(), flag) if Path(path).is_file() else None
