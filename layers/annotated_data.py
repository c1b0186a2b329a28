"""AnnotatedData: batches of images with boxes, for detection nets."""
from __future__ import annotations

from math import sqrt

import numpy as np
from google.protobuf.message import DecodeError

from ..engine.blob import Blob
from ..engine.layer import register
from ..proto import brew_pb2 as pb
from . import augment
from .augment import Draw
from .boxes import overlaps
from .data import DataLayer
from .transformer import Normalize

Boxes = np.ndarray                       # (n, 4): xmin, ymin, xmax, ymax


@register("AnnotatedData")
class AnnotatedDataLayer(DataLayer):
    """Images and true boxes from a database of AnnotatedDatum records, read ahead by threads (Liu et al., SSD, 2016).

        layer { name: "data" type: "AnnotatedData" top: "data" top: "label" include { phase: TRAIN }
                transform_param { mirror: true mean_value: [104, 117, 123] resize_param { height: 300 width: 300 } emit_constraint { emit_type: CENTER } }
                data_param { source: "trainval_lmdb" batch_size: 32 backend: LMDB }
                annotated_data_param { batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
                                                       sample_constraint { min_jaccard_overlap: 0.5 } max_sample: 1 max_trials: 50 } } }

    Tops:  (batch_size, C, H, W), of resize_param's size; true boxes (1, 1, G, 8): image, class, instance, xmin, ymin, xmax, ymax in
           units of the image, difficult (without any box, one row of -1).

    In TRAIN, in this order: distort_param, expand_param; one of the patches that the batch_samplers found is cut out; the
    patch is resized, and mirrored by chance; of boxes there stays what lies within, if emit_constraint allows them. In TEST
    images are resized.
    """

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        t = self.param.transform_param
        for field in ("crop_size", "random_resized_crop", "max_rotation_angle", "rand_augment", "cutout", "mean_file"):
            self.require(not (t.HasField(field) and getattr(t, field)), f"{field} does not go with boxes", f"transform_param.{field}")
        super().setup(bottom, top)

    def label_shape(self) -> tuple[int, ...]:
        return 1, 1, 1, 8

    def datum(self, record: bytes) -> bytes:
        return self._annotated(record).datum.SerializeToString()

    def _annotated(self, record: bytes) -> pb.AnnotatedDatum:
        try:
            found = pb.AnnotatedDatum.FromString(record)
        except DecodeError:
            found = pb.AnnotatedDatum()
        if not found.HasField("datum"):
            raise ValueError("the record is no AnnotatedDatum")
        return found

    def _make(self, batch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, Normalize | None]:
        rows: list[np.ndarray] = []
        images: np.ndarray | None = None
        crops = np.zeros((self.batch_size, 3), np.int32)
        for i, (key, record) in enumerate(zip(*self.database.read(places, self.walk))):
            try:
                groups = self._annotated(record).annotation_group
            except ValueError as e:
                raise self.broken(key, str(e)) from None
            found = [(g.group_label, a.instance_id, a.bbox.difficult, a.bbox.xmin, a.bbox.ymin, a.bbox.xmax, a.bbox.ymax) for g in groups for a in g.annotation]
            about = np.array(found, np.float64).reshape(-1, 7)
            draw = self.transformer.augmenter.draw(batch, i)
            image = self.image(key, record)
            if images is None:
                self.check(key, image.shape[2], *image.shape[:2])
            elif image.shape[2] != images.shape[1]:
                raise self.broken(key, f"its image has {image.shape[2]} channels, the batch began with {images.shape[1]}"
                                  "\n  transform_param { force_color: true } makes colour images of grey ones")
            image, boxes, kept = self._change(image, about[:, 3:], draw)
            if images is None:
                images = np.empty((self.batch_size, image.shape[2], *image.shape[:2]), np.uint8)
            elif image.shape[:2] != images.shape[2:]:
                raise self.broken(key, f"its image has {image.shape[0]} x {image.shape[1]} pixels here, the batch began with {images.shape[2]} x "
                                  f"{images.shape[3]}\n  resize_param makes all images of one size; batch_size: 1 takes any")
            mirror = self.param.transform_param.mirror and draw.chance(0.5)
            if mirror:
                boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
            crops[i, 2] = mirror
            self.transformer.image(image, images, i, crops[i], batch)
            about = about[kept]
            rows.append(np.concatenate([np.full((len(about), 1), i), about[:, :2], boxes, about[:, 2:3]], 1))
        assert images is not None
        labels = np.concatenate(rows).astype(np.float32)
        normalize = Normalize(crops, self.transformer.mean, self.transformer.scale, images.shape[1:], images.shape[2:])
        return images, (labels if len(labels) else np.full((1, 8), -1, np.float32))[None, None], normalize

    def _change(self, image: np.ndarray, boxes: Boxes, draw: Draw) -> tuple[np.ndarray, Boxes, np.ndarray]:
        """(the image, its boxes, the numbers of the boxes that are left)."""
        t, augmenter = self.param.transform_param, self.transformer.augmenter
        kept, fill = np.arange(len(boxes)), augmenter.filling(image)
        if augmenter.train:
            if t.HasField("distort_param"):
                image = augment.distort(image, t.distort_param, draw)
            if t.HasField("expand_param"):
                image, (left, top, ratio) = augment.expand(image, t.expand_param, fill, draw)
                boxes = (boxes + [left, top, left, top]) / ratio
            patches = [p for sampler in self.param.annotated_data_param.batch_sampler for p in find_patches(sampler, boxes, draw)]
            if patches:
                image, boxes, kept = self._cut(image, boxes, patches[draw.choose(len(patches))])
        if augmenter.resizes:
            image, (left, top, width, height) = augment.resize(image, t.resize_param, fill, draw)
            boxes = boxes * [width, height, width, height] + [left, top, left, top]
        return np.ascontiguousarray(image), boxes, kept

    def _cut(self, image: np.ndarray, boxes: Boxes, patch: np.ndarray) -> tuple[np.ndarray, Boxes, np.ndarray]:
        """A patch of the image, with what of its boxes lies within."""
        height, width = image.shape[:2]
        left, top, right, bottom = (int(v) for v in (patch * [width, height, width, height]).round())
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        size = patch[2:] - patch[:2]
        inside = (np.clip(boxes, np.tile(patch[:2], 2), np.tile(patch[2:], 2)) - np.tile(patch[:2], 2)) / np.tile(size, 2)
        allowed = (inside[:, 2:] > inside[:, :2]).all(1)
        t = self.param.transform_param
        if t.HasField("emit_constraint"):
            if t.emit_constraint.emit_type == pb.EmitConstraint.CENTER:
                center = (boxes[:, :2] + boxes[:, 2:]) / 2
                allowed &= ((center >= patch[:2]) & (center <= patch[2:])).all(1)
            else:
                area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
                allowed &= (inside[:, 2:] - inside[:, :2]).prod(1) * size.prod() > t.emit_constraint.emit_overlap * area
        kept = np.flatnonzero(allowed)
        return image[top:bottom, left:right], inside[kept], kept


def find_patches(sampler: pb.BatchSampler, boxes: Boxes, draw: Draw) -> list[np.ndarray]:
    """Up to max_sample patches (4) that max_trials draws found and the sample_constraint allows."""
    found: list[np.ndarray] = []
    s = sampler.sampler
    for _ in range(sampler.max_trials):
        if sampler.HasField("max_sample") and len(found) >= sampler.max_sample:
            break
        scale = draw.uniform(s.min_scale, s.max_scale)
        ratio = draw.uniform(max(s.min_aspect_ratio, scale**2), min(s.max_aspect_ratio, 1 / scale**2))
        size = np.array([scale * sqrt(ratio), scale / sqrt(ratio)])
        corner = np.array([draw.uniform(0, 1 - size[0]), draw.uniform(0, 1 - size[1])])
        patch = np.concatenate([corner, corner + size]).clip(0, 1)
        if satisfies(sampler.sample_constraint, patch, boxes):
            found.append(patch)
    return found


def satisfies(c: pb.SampleConstraint, patch: np.ndarray, boxes: Boxes) -> bool:
    """Whether the patch meets all constraints together for at least one box; without constraints it always does."""
    if not c.ListFields():
        return True
    both = (np.minimum(boxes[:, 2:], patch[2:]) - np.maximum(boxes[:, :2], patch[:2])).clip(0).prod(1)
    values = {"jaccard_overlap": overlaps(np, boxes, patch[None])[:, 0] if len(boxes) else np.zeros(0),
              "sample_coverage": both / (patch[2:] - patch[:2]).prod(), "object_coverage": both / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-12)}
    good = np.ones(len(boxes), bool)
    for name, value in values.items():
        good &= value >= getattr(c, f"min_{name}") if c.HasField(f"min_{name}") else True
        good &= value <= getattr(c, f"max_{name}") if c.HasField(f"max_{name}") else True
    return bool(good.any())
