"""Images with boxes: what a batch holds, that boxes follow the image through every change, and how detections are judged."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import brew
from brew.engine.errors import DataError, NetError
from brew.layers.annotated_data import find_patches, satisfies
from brew.layers.augment import Draw
from brew.layers.detection_evaluate import average_precision
from brew.proto import parse, pb
from brew.tools.database import write_database
from brew.tools.gradient_check import one_layer_net

COLOURS = {1: (250, 10, 10), 2: (10, 250, 10)}
RNG = np.random.default_rng(0)


def database() -> None:
    """Gray images of several sizes, each with one or two rectangles whose colour is their class; the last has none."""
    def records():  # type: ignore[no-untyped-def]
        for i in range(8):
            height, width = 60 + 5 * i, 100 - 4 * i
            image = np.full((height, width, 3), 128, np.uint8)
            groups = []
            for c in range(1, 3 if i % 2 else 2) if i < 7 else ():
                x, y = RNG.integers(0, width // 4) + (c - 1) * width // 2, RNG.integers(0, height // 2)
                w, h = RNG.integers(15, width // 4), RNG.integers(15, height // 2)
                image[y:y + h, x:x + w] = COLOURS[c]
                box = pb.NormalizedBBox(xmin=x / width, ymin=y / height, xmax=(x + w) / width, ymax=(y + h) / height, difficult=i == 3)
                groups.append(pb.AnnotationGroup(group_label=c, annotation=[pb.Annotation(instance_id=5, bbox=box)]))
            datum = pb.Datum(encoded=True, data=cv2.imencode(".png", image)[1].tobytes())
            yield f"{i:08d}".encode(), pb.AnnotatedDatum(datum=datum, type=pb.AnnotatedDatum.BBOX, annotation_group=groups)
    write_database(Path("db"), records())


def net(transform: str, annotated: str = "", phase: int = brew.TRAIN, batch: int = 4, source: str = "db") -> brew.Net:
    text = f"""layer {{ name: "d" type: "AnnotatedData" top: "data" top: "label" transform_param {{ {transform} }}
               data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} annotated_data_param {{ {annotated} }} }}"""
    return brew.Net(parse(text, pb.NetParameter()), phase, seed=1)


def coloured(image: np.ndarray, c: int) -> np.ndarray:
    """The box around what has a class's colour, in units of the image; the fraction of a pixel at the edges is lost."""
    rows, cols = np.nonzero((image[c - 1] > 180) & (image[2] < 90))
    height, width = image.shape[1:]
    return np.array([cols.min() / width, rows.min() / height, (cols.max() + 1) / width, (rows.max() + 1) / height])


RESIZE = "resize_param { height: 90 width: 120 }"
SAMPLER = "batch_sampler { sampler { min_scale: 0.4 max_scale: 0.9 min_aspect_ratio: 0.6 max_aspect_ratio: 1.6 } sample_constraint { min_object_coverage: 0.7 } max_sample: 1 max_trials: 50 }"


@pytest.mark.parametrize("transform, annotated", [
    (RESIZE, ""), (f"{RESIZE} mirror: true", ""), (f"{RESIZE} expand_param {{ max_expand_ratio: 2 }}", ""), (RESIZE, SAMPLER),
    ("resize_param { height: 120 width: 120 resize_mode: FIT_LARGE_SIZE_AND_PAD }", ""), (f"{RESIZE} mirror: true expand_param {{ prob: 0.5 max_expand_ratio: 1.5 }}", SAMPLER)])
def test_boxes_follow_the_image(transform: str, annotated: str) -> None:
    database()
    n = net(transform, annotated)
    seen = 0
    for _ in range(8):
        out = n.forward()
        for row in out["label"][0, 0]:
            if row[0] >= 0 and (row[5:7] - row[3:5]).min() > 0.06:      # not a sliver at a patch's edge
                np.testing.assert_allclose(coloured(out["data"][int(row[0])], int(row[1])), row[3:7], atol=0.035)
                assert row[2] == 5
                seen += 1
    assert seen >= 30


def test_a_batch_without_boxes_has_a_row_of_minus_one() -> None:
    database()
    n = net("", phase=brew.TEST, batch=1)
    shapes = set()
    for i in range(8):
        out = n.forward()
        shapes.add(out["data"].shape)
        assert out["label"].shape == ((1, 1, 1, 8) if i % 2 == 0 or i == 7 else (1, 1, 2, 8)) and (out["label"] == -1).all() == (i == 7)
        assert (out["label"][0, 0, :, 7] == 1).all() == (i == 3)
    assert len(shapes) == 8


def test_a_patch_keeps_the_boxes_whose_centre_it_has() -> None:
    database()
    loose = "batch_sampler { sampler { min_scale: 0.5 max_scale: 0.5 } max_sample: 1 max_trials: 1 }"
    every, central = (net(f"{RESIZE} {more}", loose) for more in ("", "emit_constraint { emit_type: CENTER }"))
    counts = [sum(int((n.forward()["label"][0, 0, :, 0] >= 0).sum()) for _ in range(10)) for n in (every, central)]
    assert counts[1] < counts[0]


def test_patches_meet_their_constraints() -> None:
    boxes = np.array([[0.1, 0.1, 0.4, 0.5], [0.6, 0.5, 0.9, 0.9]])
    sampler = pb.BatchSampler(sampler=pb.Sampler(min_scale=0.3, max_scale=0.8, min_aspect_ratio=0.5, max_aspect_ratio=2), max_sample=5, max_trials=500,
                              sample_constraint=pb.SampleConstraint(min_jaccard_overlap=0.3))
    patches = find_patches(sampler, boxes, Draw(1, "x", 0))
    assert len(patches) == 5 and all(satisfies(sampler.sample_constraint, p, boxes) for p in patches)
    ratios = [(p[2] - p[0]) / (p[3] - p[1]) for p in patches]
    assert all(0.5 <= r <= 2 for r in ratios) and all((p >= 0).all() and (p <= 1).all() for p in patches)
    assert not satisfies(pb.SampleConstraint(min_jaccard_overlap=0.9), np.array([0, 0, 0.05, 0.05]), boxes)
    assert not find_patches(sampler, np.zeros((0, 4)), Draw(1, "x", 0))


def test_what_is_wrong_is_named() -> None:
    database()
    with pytest.raises(DataError, match="the batch began with"):
        net("").forward()
    with pytest.raises(NetError, match="crop_size does not go with boxes"):
        net(f"crop_size: 20 {RESIZE}")
    write_database(Path("bad"), [(b"0", pb.Datum(channels=1, height=2, width=2, data=b"1234"))])  # type: ignore[list-item]
    with pytest.raises(DataError, match="the record is no AnnotatedDatum"):
        net(RESIZE, source="bad")


def test_detections_are_judged_best_first_and_once(device: str) -> None:
    net = one_layer_net('type: "DetectionEvaluate" top: "y" detection_evaluate_param { num_classes: 3 evaluate_difficult_gt: false }', (1, 1, 5, 7), (1, 1, 3, 8))
    net.blobs["b0"].data[0, 0] = [[0, 1, 0.6, 0, 0, 0.5, 0.5], [0, 1, 0.9, 0, 0, 0.5, 0.45], [0, 1, 0.3, 0.6, 0.6, 1, 1], [0, 2, 0.8, 0, 0, 0.5, 0.5], [1, 2, 0.7, 0.5, 0.5, 1, 1]]
    net.blobs["b1"].data[0, 0] = [[0, 1, 0, 0, 0, 0.5, 0.5, 0], [1, 2, 0, 0.5, 0.5, 1, 1, 0], [0, 1, 0, 0.6, 0.6, 1, 1, 1]]
    net.forward()
    rows = net.blobs["y"].data[0, 0]
    np.testing.assert_allclose(rows, [[-1, 1, 1, -1, -1], [-1, 2, 1, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.6, 0, 1], [0, 1, 0.3, 0, 0], [0, 2, 0.8, 0, 1], [1, 2, 0.7, 1, 0]], rtol=1e-6)
    assert average_precision(rows) == {1: 1.0, 2: 0.5}


def test_segmentation_is_scored_by_its_table(device: str) -> None:
    for reset in ("true", "false"):
        net = one_layer_net(f'type: "SegAccuracy" top: "y" seg_accuracy_param {{ ignore_label: 255 reset: {reset} }}', (1, 3, 2, 3), (1, 1, 2, 3))
        best, labels = np.array([[0, 1, 1], [1, 0, 2]]), np.array([[0, 1, 1], [0, 255, 255]])
        net.blobs["b0"].data[0] = (best == np.arange(3)[:, None, None])
        net.blobs["b1"].data[0, 0] = labels
        for _ in range(2):
            net.forward()
        np.testing.assert_allclose(net.blobs["y"].data, [0.75, 0.75, (1 / 2 + 2 / 3) / 2], rtol=1e-5)
        assert bool(net.layers[-1].carried) == (reset == "false")


def pictures(name: str, *shapes: tuple[int, ...], encoded: bool = True) -> str:
    """A database of noise, one box in the middle of each picture."""
    def records():  # type: ignore[no-untyped-def]
        for i, shape in enumerate(shapes):
            pixels = RNG.integers(0, 255, shape, dtype=np.uint8)
            box = pb.NormalizedBBox(xmin=0.25, ymin=0.25, xmax=0.75, ymax=0.75)
            datum = pb.Datum(encoded=True, data=cv2.imencode(".png", pixels)[1].tobytes())
            yield f"{i:08d}".encode(), pb.AnnotatedDatum(datum=datum, annotation_group=[pb.AnnotationGroup(group_label=1, annotation=[pb.Annotation(bbox=box)])])
    write_database(Path(name), records())
    return name


@pytest.mark.parametrize("first, key", [(1, 1), (0, 0), (2, 2)])
@pytest.mark.parametrize("mean", ["", "mean_value: [104, 117, 123]", "mean_value: 5"])
def test_a_grey_picture_among_colour_ones(first: int, key: int, mean: str) -> None:
    """In a batch, at the beginning of one, and of the first."""
    shapes: list[tuple[int, ...]] = [(40, 50, 3)] * 4
    shapes[first] = (40, 50)
    source = pictures("grey", *shapes)
    if mean.count(",") or first == 1:
        with pytest.raises((DataError, NetError)) as e:
            n = net(f"resize_param {{ height: 30 width: 30 }} {mean}", batch=2, source=source)
            n.forward(), n.forward()
        assert "force_color: true } makes colour images" in str(e.value) and (not first or f"record '0000000{key}'" in str(e.value)), e.value
    n = net(f"resize_param {{ height: 30 width: 30 }} force_color: true {mean}", batch=2, source=source)
    assert [n.forward()["data"].shape for _ in range(2)] == [(2, 3, 30, 30)] * 2


def test_images_of_one_size_need_no_resize_param() -> None:
    n = net("", batch=2, source=pictures("same", (40, 50, 3), (40, 50, 3), (40, 50, 3), (30, 50, 3)))
    assert n.forward()["data"].shape == (2, 3, 40, 50)
    with pytest.raises(DataError, match="record '00000003' .* 30 x 50 pixels here, the batch began with 40 x 50\n  resize_param makes all"):
        n.forward()


@pytest.mark.parametrize("shape, size", [((40, 50), (20, 25)), ((50, 40), (25, 20)), ((10, 33), (20, 66)), ((20, 20), (20, 20)), ((7, 3), (46, 20))])
def test_fit_small_size_keeps_the_shape(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """The smaller side is resize_param's, the other in proportion, cut to whole pixels (SSD's im_transforms); boxes keep their place."""
    n = net("resize_param { resize_mode: FIT_SMALL_SIZE height: 20 width: 20 height_scale: 20 width_scale: 20 }", batch=1,
            source=pictures("small", (*shape, 3), (*shape, 3)))
    out = n.forward()
    assert out["data"].shape == (1, 3, *size)
    np.testing.assert_allclose(out["label"][0, 0, 0, 3:7], [0.25, 0.25, 0.75, 0.75])
    other = brew.Net(parse("""layer { name: "d" type: "AnnotatedData" top: "data" top: "label" transform_param { resize_param { resize_mode: FIT_SMALL_SIZE
        height: 20 width: 40 } } data_param { source: "small" batch_size: 2 } }""", pb.NetParameter()), brew.TEST)
    height, width = other.forward()["data"].shape[2:]
    assert (height, width) == ((20, int(20 * shape[1] / shape[0])) if shape[1] / shape[0] >= 2 else (int(40 / (shape[1] / shape[0])), 40))
