"""Random changes of images while training: parts, turns, colours, squares cut out. Images are (H, W, C) bytes, BGR.

All run in OpenCV, which lets other threads run. What an image gets is a function of (seed, layer, batch, place in it).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from typing import Any

import cv2
import numpy as np

from ..engine.random import words
from ..proto import brew_pb2 as pb

Image = np.ndarray
Color = Sequence[float] | np.ndarray       # one value, or one for each channel
INTERPOLATIONS = {"LINEAR": cv2.INTER_LINEAR, "AREA": cv2.INTER_AREA, "NEAREST": cv2.INTER_NEAREST, "CUBIC": cv2.INTER_CUBIC, "LANCZOS4": cv2.INTER_LANCZOS4}


class Draw:
    """The random numbers of one image, one after the other."""

    BLOCK = 64

    def __init__(self, seed: int, who: str, count: int):
        self.seed, self.who, self.count, self.used = seed, who, count, 0

    def word(self) -> int:
        if self.used % self.BLOCK == 0:
            self.ahead = words(self.seed, f"{self.who}/{self.used // self.BLOCK}", self.count, self.BLOCK)
        self.used += 1
        return int(self.ahead[(self.used - 1) % self.BLOCK])

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.word() / 2**32

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def choose(self, n: int) -> int:
        return self.word() % n


def shaped(image: Image, like: Image) -> Image:
    """OpenCV drops the axis of a single channel: put it back."""
    return image if image.ndim == like.ndim else image[..., None]


# -------------------------------------------------------------------------------------------------- places and sizes

def expand(image: Image, p: pb.ExpansionParameter, fill: Color, draw: Draw) -> tuple[Image, tuple[float, float, float]]:
    """(the image on a larger canvas, or as it is; its left and top edge there and the canvas' side, in units of the image)."""
    if not draw.chance(p.prob) or p.max_expand_ratio <= 1:
        return image, (0.0, 0.0, 1.0)
    ratio = draw.uniform(1, p.max_expand_ratio)
    height, width = image.shape[:2]
    canvas = np.empty((int(height * ratio), int(width * ratio), image.shape[2]), np.uint8)
    canvas[...] = np.asarray(fill)
    top, left = int(draw.uniform(0, canvas.shape[0] - height)), int(draw.uniform(0, canvas.shape[1] - width))
    canvas[top:top + height, left:left + width] = image
    return canvas, (left / width, top / height, ratio)


def resized_crop(image: Image, p: pb.RandomResizedCropParameter, size: int, draw: Draw) -> Image:
    """A part with a share of the area between min_area and max_area and such an aspect ratio, resized to size x size."""
    height, width = image.shape[:2]
    part_h = part_w = min(height, width)                               # where no part of such a shape fits: the middle
    top, left = (height - part_h) // 2, (width - part_w) // 2
    for _ in range(10):
        area = height * width * draw.uniform(p.min_area, p.max_area)
        ratio = exp(draw.uniform(log(p.min_aspect_ratio), log(p.max_aspect_ratio)))
        h, w = round(sqrt(area / ratio)), round(sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            part_h, part_w, top, left = h, w, draw.choose(height - h + 1), draw.choose(width - w + 1)
            break
    return shaped(cv2.resize(image[top:top + part_h, left:left + part_w], (size, size), interpolation=cv2.INTER_LINEAR), image)


def resize(image: Image, p: pb.ResizeParameter, fill: Color, draw: Draw) -> tuple[Image, tuple[float, float, float, float]]:
    """(the image as resize_param says; the part of the result that it fills: left, top, width, height in units of the result)."""
    names = [pb.ResizeParameter.Interp_mode.Name(m) for m in p.interp_mode] or ["LINEAR"]
    mode = INTERPOLATIONS[names[draw.choose(len(names))] if len(names) > 1 else names[0]]
    if p.resize_mode == pb.ResizeParameter.WARP:
        return shaped(cv2.resize(image, (p.width, p.height), interpolation=mode), image), (0, 0, 1, 1)
    if p.resize_mode == pb.ResizeParameter.FIT_SMALL_SIZE:
        height, width = small_size(p, *image.shape[:2])
        return shaped(cv2.resize(image, (width, height), interpolation=mode), image), (0, 0, 1, 1)
    scale = min(p.height / image.shape[0], p.width / image.shape[1])
    h, w = max(round(image.shape[0] * scale), 1), max(round(image.shape[1] * scale), 1)
    canvas = np.empty((p.height, p.width, image.shape[2]), np.uint8)
    canvas[...] = np.asarray(list(p.pad_value) or fill)
    top, left = (p.height - h) // 2, (p.width - w) // 2
    canvas[top:top + h, left:left + w] = shaped(cv2.resize(image, (w, h), interpolation=mode), image)
    return canvas, (left / p.width, top / p.height, w / p.width, h / p.height)


def small_size(p: pb.ResizeParameter, height: int, width: int) -> tuple[int, int]:
    """(height, width) of an image in its own shape, as small as height x width of resize_param allow, in single precision as SSD's."""
    own, wanted = np.float32(width) / np.float32(height), np.float32(p.width) / np.float32(p.height)
    if own < wanted:
        return max(int(np.float32(p.width) / own), 1), p.width
    return p.height, max(int(own * np.float32(p.height)), 1)


def affine(image: Image, matrix: list[list[float]], fill: Color) -> Image:
    """The image under a map about its centre; `matrix` (2, 3) goes from the result to the source, pixels."""
    height, width = image.shape[:2]
    m = np.array(matrix, np.float64)
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    m[:, 2] += center - m[:, :2] @ center
    return shaped(cv2.warpAffine(image, m, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT, borderValue=tuple(map(float, fill))), image)


def rotate(image: Image, degrees: float, fill: Color) -> Image:
    """Counter-clockwise."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return affine(image, [[c, -s, 0], [s, c, 0]], fill)


# ------------------------------------------------------------------------------------------------------------- colours

def lookup(image: Image, table: np.ndarray) -> Image:
    return shaped(cv2.LUT(image, np.clip(table + 0.5, 0, 255).astype(np.uint8)), image)


RAMP = np.arange(256, dtype=np.float64)


def blend(image: Image, other: Image, factor: float) -> Image:
    """other + factor (image - other): 1 is the image, 0 the other."""
    return shaped(cv2.addWeighted(image, factor, other, 1 - factor, 0), image)


def gray(image: Image) -> Image:
    if image.shape[2] == 1:
        return image
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None], 3, 2)


def shift_hue(image: Image, degrees: float) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + round(degrees / 2)) % 180       # OpenCV's hue is in steps of two degrees
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def distort(image: Image, p: pb.DistortionParameter, draw: Draw) -> Image:
    """Brightness, contrast, saturation and hue, each by chance, contrast before or after the colours (Liu et al. 2016)."""
    def contrast(x: Image) -> Image:
        return lookup(x, RAMP * draw.uniform(p.contrast_lower, p.contrast_upper)) if draw.chance(p.contrast_prob) else x

    if draw.chance(p.brightness_prob):
        image = lookup(image, RAMP + draw.uniform(-p.brightness_delta, p.brightness_delta))
    early = draw.chance(0.5)
    image = contrast(image) if early else image
    if draw.chance(p.saturation_prob):
        image = blend(image, gray(image), draw.uniform(p.saturation_lower, p.saturation_upper))
    if draw.chance(p.hue_prob) and image.shape[2] == 3:
        image = shift_hue(image, draw.uniform(-p.hue_delta, p.hue_delta))
    image = image if early else contrast(image)
    if draw.chance(p.random_order_prob):
        image = image[:, :, np.argsort([draw.word() for _ in range(image.shape[2])])]
    return image


def equalize(image: Image) -> Image:
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])], 2)


def autocontrast(image: Image) -> Image:
    planes = []
    for c in range(image.shape[2]):
        low, high = int(image[..., c].min()), int(image[..., c].max())
        planes.append(lookup(image[..., c:c + 1], (RAMP - low) * 255 / (high - low)) if high > low else image[..., c:c + 1])
    return np.concatenate(planes, 2)


def sharpen(image: Image, factor: float) -> Image:
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    return blend(image, shaped(cv2.filter2D(image, -1, kernel), image), factor)


def flat(image: Image) -> Image:
    return np.full_like(image, round(float(gray(image).mean())))


# name -> f(image, strength in 0..1 with a random sign, fill). The list of Cubuk et al. 2020, section 4.
OPERATIONS: dict[str, Callable[[Image, float, Color], Image]] = {
    "identity": lambda x, m, fill: x,
    "autocontrast": lambda x, m, fill: autocontrast(x),
    "equalize": lambda x, m, fill: equalize(x),
    "rotate": lambda x, m, fill: rotate(x, 30 * m, fill),
    "solarize": lambda x, m, fill: lookup(x, np.where(RAMP < 256 * (1 - abs(m)), RAMP, 255 - RAMP)),
    "color": lambda x, m, fill: blend(x, gray(x), 1 + 0.9 * m),
    "posterize": lambda x, m, fill: lookup(x, np.floor(RAMP / 2 ** round(4 * abs(m))) * 2 ** round(4 * abs(m))),
    "contrast": lambda x, m, fill: blend(x, flat(x), 1 + 0.9 * m),
    "brightness": lambda x, m, fill: lookup(x, RAMP * (1 + 0.9 * m)),
    "sharpness": lambda x, m, fill: sharpen(x, 1 + 0.9 * m),
    "shear x": lambda x, m, fill: affine(x, [[1, 0.3 * m, 0], [0, 1, 0]], fill),
    "shear y": lambda x, m, fill: affine(x, [[1, 0, 0], [0.3 * m, 1, 0]], fill),
    "translate x": lambda x, m, fill: affine(x, [[1, 0, 0.3 * m * x.shape[1]], [0, 1, 0]], fill),
    "translate y": lambda x, m, fill: affine(x, [[1, 0, 0], [0, 1, 0.3 * m * x.shape[0]]], fill),
}


def rand_augment(image: Image, p: pb.RandAugmentParameter, fill: Color, draw: Draw) -> Image:
    """`operations` drawn from the list, each of strength magnitude / 10, either way."""
    for _ in range(p.operations):
        operation = list(OPERATIONS.values())[draw.choose(len(OPERATIONS))]
        image = operation(image, p.magnitude / 10 * (1 if draw.chance(0.5) else -1), fill)
    return image


def cut_out(values: np.ndarray, p: pb.CutoutParameter, draw: Draw) -> None:
    """Set squares of an array (C, H, W), centred anywhere, to 0: the mean, once it has been subtracted."""
    _, height, width = values.shape
    for _ in range(p.number):
        top, left = draw.choose(height) - p.size // 2, draw.choose(width) - p.size // 2
        values[:, max(top, 0):max(top + p.size, 0), max(left, 0):max(left + p.size, 0)] = 0


class Augmenter:
    """What transform_param asks of this layer's images besides crop, mirror, mean and scale."""

    def __init__(self, layer: Any, mean: np.ndarray):
        p = self.param = layer.param.transform_param
        self.layer, self.train, field = layer, layer.phase == pb.TRAIN, "transform_param"
        self.fill = mean if mean.size <= 3 else np.zeros(0)
        self.resizes = p.HasField("resize_param")
        changes = ("expand_param", "random_resized_crop", "distort_param", "rand_augment", "cutout")
        self.active = self.resizes or self.train and (p.max_rotation_angle > 0 or any(p.HasField(f) for f in changes))
        r, q, d = p.random_resized_crop, p.resize_param, p.distort_param
        layer.require(not p.HasField("random_resized_crop") or p.crop_size, "random_resized_crop makes images of crop_size: give it", f"{field}.random_resized_crop")
        layer.require(0 < r.min_area <= r.max_area <= 1, f"areas are shares of the image, 0 < min_area <= max_area <= 1; found {r.min_area:g} and {r.max_area:g}", f"{field}.random_resized_crop")
        layer.require(0 < r.min_aspect_ratio <= r.max_aspect_ratio, "aspect ratios are 0 < min_aspect_ratio <= max_aspect_ratio", f"{field}.random_resized_crop")
        layer.require(not (self.resizes and p.HasField("random_resized_crop")), "random_resized_crop and resize_param exclude each other", f"{field}.resize_param")
        layer.require(not self.resizes or q.height and q.width, "resize_param needs height and width", f"{field}.resize_param")
        layer.require(q.prob == 1, "resize_param is for every image: prob is 1", f"{field}.resize_param")
        layer.require(q.pad_mode == pb.ResizeParameter.CONSTANT, "pad_mode is CONSTANT", f"{field}.resize_param")
        layer.require(not p.HasField("expand_param") or self.resizes or p.HasField("random_resized_crop"), "expand_param changes sizes: it goes with resize_param or random_resized_crop", f"{field}.expand_param")
        layer.require(0 <= p.rand_augment.magnitude <= 10, f"magnitude lies between 0 and 10, found {p.rand_augment.magnitude:g}", f"{field}.rand_augment")
        layer.require(not p.HasField("cutout") or p.cutout.size, "cutout needs size, in pixels", f"{field}.cutout")
        for name in ("contrast", "saturation"):
            low, high = getattr(d, f"{name}_lower"), getattr(d, f"{name}_upper")
            layer.require(0 <= low <= high, f"{name}_lower and {name}_upper must be 0 <= lower <= upper, found {low:g} and {high:g}", f"{field}.distort_param")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of images of this size before the crop."""
        p = self.param
        if self.resizes and p.resize_param.resize_mode == pb.ResizeParameter.FIT_SMALL_SIZE:
            return small_size(p.resize_param, height, width)
        if self.resizes:
            return p.resize_param.height, p.resize_param.width
        return (p.crop_size, p.crop_size) if self.train and p.HasField("random_resized_crop") else (height, width)

    def draw(self, batch: int, place: int) -> Draw:
        return Draw(self.layer.seed, f"{self.layer.name}/augment{place}", batch)

    def filling(self, image: Image) -> np.ndarray:
        """The colour of what lies beyond the image."""
        return np.broadcast_to(self.fill if self.fill.size else 0, image.shape[2])

    def apply(self, image: Image, draw: Draw) -> Image:
        p, fill = self.param, self.filling(image)
        if self.train and p.HasField("expand_param"):
            image, _ = expand(image, p.expand_param, fill, draw)
        if self.train and p.HasField("random_resized_crop"):
            image = resized_crop(image, p.random_resized_crop, p.crop_size, draw)
        if self.resizes:
            image, _ = resize(image, p.resize_param, fill, draw)
        if self.train:
            if p.max_rotation_angle:
                image = rotate(image, draw.uniform(-p.max_rotation_angle, p.max_rotation_angle), fill)
            if p.HasField("distort_param"):
                image = distort(image, p.distort_param, draw)
            if p.HasField("rand_augment"):
                image = rand_augment(image, p.rand_augment, fill, draw)
        return np.ascontiguousarray(image)

    def finish(self, values: np.ndarray, draw: Draw) -> None:
        """What is done to the transformed image (C, H, W)."""
        if self.train and self.param.HasField("cutout"):
            cut_out(values, self.param.cutout, draw)
