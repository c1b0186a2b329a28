"""WindowData: which windows a batch holds, and how they are warped."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import brew
from brew.engine.errors import DataError
from brew.proto import parse, pb

IMAGE = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (70, 50))
WINDOWS = "1 0.9 10 5 49 34\n2 0.5 20 10 29 19\n0 0.1 0 0 19 19\n1 0.4 50 30 69 49\n"
WHOLE = "batch_size: 8 fg_fraction: 0.25 bg_threshold: 0.3"


def net(params: str = WHOLE, windows: str = WINDOWS, transform: str = "crop_size: 20", seed: int = 1) -> brew.Net:
    cv2.imwrite("a.png", IMAGE)
    Path("w.txt").write_text(f"# 0\na.png\n3\n50\n70\n{len(windows.splitlines())}\n{windows}")
    text = f'''layer {{ name: "d" type: "WindowData" top: "data" top: "label" transform_param {{ {transform} }} window_data_param {{ source: "w.txt" {params} }} }}'''
    return brew.Net(parse(text, pb.NetParameter()), brew.TRAIN, seed=seed)


def warped(x1: int, y1: int, x2: int, y2: int, side: int = 20) -> np.ndarray:
    return cv2.resize(IMAGE[y1:y2 + 1, x1:x2 + 1], (side, side)).transpose(2, 0, 1).astype(np.float32)


def test_a_batch_is_background_and_then_foreground(device: str) -> None:
    n = net()
    out = n.forward()
    assert out["label"][:6].tolist() == [0] * 6 and set(out["label"][6:]) <= {1, 2}
    for image in out["data"][:6]:
        np.testing.assert_array_equal(image, warped(0, 0, 19, 19))     # the window with 0.4 is neither
    for image, label in zip(out["data"][6:], out["label"][6:]):
        np.testing.assert_array_equal(image, warped(10, 5, 49, 34) if label == 1 else warped(20, 10, 29, 19))


def test_mean_and_scale_are_applied() -> None:
    plain, changed = net().forward()["data"].copy(), net(WHOLE + " scale: 0.5", transform="crop_size: 20 mean_value: 1 mean_value: 2 mean_value: 3").forward()["data"]
    np.testing.assert_allclose(changed, (plain - np.array([1, 2, 3]).reshape(3, 1, 1)) * 0.5, rtol=1e-6)


def test_mirrored_windows_are_flipped() -> None:
    plain, mirrored = net().forward()["data"].copy(), net(transform="crop_size: 20 mirror: true").forward()["data"]
    flipped = [(m == p[:, :, ::-1]).all() for m, p in zip(mirrored, plain)]
    assert all(f or (m == p).all() for f, m, p in zip(flipped, mirrored, plain)) and 0 < sum(flipped) < 8


def test_context_beyond_the_image_is_the_mean() -> None:
    """The window (0, 0)..(19, 19) with 5 of 20 pixels of context: 40 pixels wide from -10 on; a quarter of each axis is outside."""
    image = net("batch_size: 1 fg_fraction: 0 context_pad: 5 bg_threshold: 0.3", transform="crop_size: 20 mean_value: 9").forward()["data"][0]
    assert (image[:, :5] == 0).all() and (image[:, :, :5] == 0).all()
    inside = cv2.resize(IMAGE[:31, :31], (15, 15)).transpose(2, 0, 1).astype(np.float32) - 9
    np.testing.assert_array_equal(image[:, 5:, 5:], inside)


def test_a_square_takes_the_longer_side() -> None:
    image = net("batch_size: 1 fg_fraction: 1 crop_mode: \"square\"", windows="1 1 20 20 39 29\n", transform="crop_size: 21").forward()["data"][0]
    np.testing.assert_array_equal(image, warped(20, 15, 40, 35, 21))


@pytest.mark.parametrize("windows, message", [("1 0.9 0 0 5\n", "w.txt:7: expected blocks"), ("0 0.9 0 0 5 5\n", "w.txt:7: expected blocks"), ("1 0.9 0 0 9 9\n", "the list has no background windows, and a batch needs 6")])
def test_a_bad_list_is_refused(windows: str, message: str) -> None:
    with pytest.raises(DataError) as e:
        net(windows=windows)
    assert message in str(e.value)


def test_a_missing_image_is_named() -> None:
    n = net()
    Path("a.png").unlink()
    with pytest.raises(DataError, match="a.png does not exist"):
        n.forward()
