"""Augmentation: each operation against what it should do to a picture, and that draws depend on seed and place alone."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import brew
from brew.engine.errors import NetError
from brew.layers import augment
from brew.layers.augment import OPERATIONS, Draw
from brew.proto import parse, pb
from brew.tools.database import write_database

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (56, 40), interpolation=cv2.INTER_LINEAR)       # smooth, 40 x 56
FILL = np.zeros(3)


def test_nothing_changes_at_strength_zero() -> None:
    for name in ("rotate", "solarize", "color", "posterize", "contrast", "brightness", "sharpness", "shear x", "shear y", "translate x", "translate y", "identity"):
        np.testing.assert_array_equal(OPERATIONS[name](IMAGE, 0.0, FILL), IMAGE, err_msg=name)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"identity"}))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_changes_the_image_and_keeps_its_kind(name: str, channels: int) -> None:
    image = np.ascontiguousarray(IMAGE[..., :channels])
    changed = OPERATIONS[name](image, 0.9, np.zeros(channels))
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert (changed != image).any() or (name, channels) == ("color", 1)


def test_operations_do_what_their_names_say() -> None:
    np.testing.assert_array_equal(OPERATIONS["translate x"](IMAGE, 10 / (0.3 * 56), FILL)[:, :46], IMAGE[:, 10:])
    np.testing.assert_array_equal(OPERATIONS["solarize"](IMAGE, 1.0, FILL), 255 - IMAGE)
    assert np.unique(OPERATIONS["posterize"](IMAGE, 1.0, FILL)).tolist() == [v for v in range(0, 256, 16) if (IMAGE // 16 * 16 == v).any()]
    np.testing.assert_allclose(OPERATIONS["brightness"](IMAGE, -1.0, FILL), IMAGE * 0.1, atol=0.51)
    auto = OPERATIONS["autocontrast"](IMAGE // 2 + 30, 0.5, FILL)
    assert auto.min() == 0 and auto.max() == 255
    assert np.ptp(OPERATIONS["color"](IMAGE, -1 / 0.9, FILL).astype(int), axis=2).max() <= 1
    square = IMAGE[:40, :40]
    np.testing.assert_allclose(augment.rotate(square, 90, FILL), np.rot90(square), atol=2)


def test_a_part_has_the_area_and_the_shape_that_were_asked_for() -> None:
    ramp = np.stack(np.broadcast_arrays(np.arange(200)[:, None], np.arange(200)[None], 0), 2).astype(np.uint8)     # (row, column, 0)
    p = pb.RandomResizedCropParameter(min_area=0.1, max_area=0.3, min_aspect_ratio=0.5, max_aspect_ratio=2)
    areas, ratios, corners = [], [], set()
    for i in range(60):
        part = augment.resized_crop(ramp, p, 50, Draw(1, "x", i)).astype(float)
        height, width = np.ptp(part[..., 0]) + 1, np.ptp(part[..., 1]) + 1
        areas.append(height * width / 200**2)
        ratios.append(width / height)
        corners.add((part[0, 0, 0], part[0, 0, 1]))
    assert 0.07 < min(areas) < 0.14 and 0.26 < max(areas) < 0.33 and 0.45 < min(ratios) < 0.7 and 1.4 < max(ratios) < 2.2 and len(corners) > 50


def test_hue_turns_colours_and_keeps_grays() -> None:
    red, gray = np.full((2, 2, 3), [0, 0, 200], np.uint8), np.full((2, 2, 3), 90, np.uint8)
    assert augment.shift_hue(red, 120)[0, 0].tolist() == [0, 200, 0]
    assert (augment.shift_hue(gray, 77) == gray).all()


def test_colour_jitter_stays_in_its_ranges() -> None:
    p = pb.DistortionParameter(brightness_prob=1, brightness_delta=20)
    shifts = {int(augment.distort(np.full((1, 1, 3), 100, np.uint8), p, Draw(1, "x", i))[0, 0, 0]) - 100 for i in range(80)}
    assert min(shifts) >= -20 and max(shifts) <= 20 and min(shifts) < -12 and max(shifts) > 12


# ------------------------------------------------------------------------------------------------------ in a data layer

def database(encode: bool, sizes: bool = False) -> None:
    def records():  # type: ignore[no-untyped-def]
        for i in range(12):
            image = cv2.resize(IMAGE, (56 + 4 * i, 40 + 2 * i)) if sizes else IMAGE
            if encode:
                yield f"{i:08d}".encode(), pb.Datum(encoded=True, label=i, data=cv2.imencode(".png", image)[1].tobytes())
            else:
                yield f"{i:08d}".encode(), pb.Datum(channels=3, height=image.shape[0], width=image.shape[1], label=i, data=image.transpose(2, 0, 1).tobytes())
    write_database(Path("db"), records())


def net(transform: str, phase: int = brew.TRAIN, seed: int = 1) -> brew.Net:
    text = f'layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} data_param {{ source: "db" batch_size: 6 backend: LMDB }} }}'
    return brew.Net(parse(text, pb.NetParameter()), phase, seed=seed)


ALL = """random_resized_crop { } crop_size: 32 mirror: true mean_value: 100 max_rotation_angle: 10 rand_augment { } cutout { size: 8 }
         distort_param { brightness_prob: 1 brightness_delta: 32 contrast_prob: 1 contrast_lower: 0.5 contrast_upper: 1.5 saturation_prob: 1
                         saturation_lower: 0.5 saturation_upper: 1.5 hue_prob: 1 hue_delta: 18 } """


def test_what_an_image_gets_depends_on_seed_and_place_alone() -> None:
    database(encode=True, sizes=True)
    a, b, other = net(ALL), net(ALL), net(ALL, seed=2)
    first = [a.forward()["data"].copy() for _ in range(3)]
    assert not (first[0] == first[2]).all()                      # the same images in the next epoch
    assert (first[1] == [b.forward()["data"].copy() for _ in range(2)][1]).all()
    assert not (first[0] == other.forward()["data"]).all()
    again = net(ALL)
    again.layers[0].batches = 2
    assert (again.forward()["data"] == first[2]).all()


def test_raw_and_encoded_records_get_the_same() -> None:
    database(encode=True)
    encoded = net(ALL).forward()
    encoded = {k: v.copy() for k, v in encoded.items()}
    for file in Path("db").iterdir():
        file.unlink()
    Path("db").rmdir()
    database(encode=False)
    raw = net(ALL).forward()
    assert (encoded["data"] == raw["data"]).all() and raw["label"].tolist() == list(range(6))


def test_nothing_is_changed_in_test() -> None:
    database(encode=False)
    out = net(ALL, brew.TEST).forward()["data"][0]
    expected = IMAGE[4:36, 12:44].transpose(2, 0, 1) - 100.0
    assert (out == expected).all() or (out == expected[:, :, ::-1]).all()


def test_cutout_leaves_a_hole_of_the_mean() -> None:
    database(encode=False)
    data = net("mean_value: 300 cutout { size: 10 }").forward()["data"]
    holes = (data == 0).all(1)
    assert holes.any((1, 2)).all() and holes.sum((1, 2)).max() <= 100 and holes.sum((1, 2)).max() > 60


@pytest.mark.parametrize("transform, says", [
    ("random_resized_crop { }", "random_resized_crop makes images of crop_size: give it"), ("crop_size: 8 random_resized_crop { min_area: 2 }", "areas are shares of the image"),
    ("resize_param { height: 5 }", "resize_param needs height and width"), ("rand_augment { magnitude: 11 }", "magnitude lies between 0 and 10, found 11"),
    ("cutout { }", "cutout needs size"), ("expand_param { max_expand_ratio: 2 }", "expand_param changes sizes"),
    ("distort_param { contrast_lower: 2 contrast_upper: 1 }", "contrast_lower and contrast_upper must be")])
def test_what_is_wrong_is_named(transform: str, says: str) -> None:
    database(encode=False)
    with pytest.raises(NetError, match=says):
        net(transform)


def test_letterboxing_keeps_the_shape_of_things() -> None:
    out, part = augment.resize(IMAGE, pb.ResizeParameter(resize_mode="FIT_LARGE_SIZE_AND_PAD", height=56, width=56, pad_value=[7]), FILL, Draw(1, "x", 0))
    assert out.shape == (56, 56, 3) and (out[:8] == 7).all() and (out[48:] == 7).all() and part == (0, 8 / 56, 1, 40 / 56)
    np.testing.assert_array_equal(out[8:48], IMAGE)
