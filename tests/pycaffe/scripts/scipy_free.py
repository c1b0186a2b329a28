"""A module beside the scripts, which they import as scripts do."""
import cv2
import numpy as np


def zoom(x, factor=None, shape=None):
    """An array (C, H, W) resized."""
    h, w = shape or (int(x.shape[1] * factor), int(x.shape[2] * factor))
    return np.stack([cv2.resize(plane, (w, h)) for plane in np.ascontiguousarray(x, np.float32)])
