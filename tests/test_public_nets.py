"""Nets of public repositories, built and run forward and backward once: what is in ../shared/data/prototxts.

Layers that read data are replaced by Inputs. What shape their tops have stands nowhere in a prototxt where the database
says it, so it is taken from transform_param, from the data set's name, or from what the layers above ask for.
"""
from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

import brew
from brew.engine.context import dry_run
from brew.proto import BrewError, PrototxtError, pb, read_net, to_text

pytestmark = pytest.mark.oracle
READERS = {"Data", "ImageData", "HDF5Data", "WindowData", "MemoryData", "AnnotatedData"}
GIB = 1 << 30
SIZES = {"siamese": (2, 28, 28), "mnist": (1, 28, 28), "cifar": (3, 32, 32)}      # by the data set's name
OTHERS = ((3, 224, 224), (1, 41, 41), (3, 321, 321))                                 # tried one after the other
MOST_WORK = float(os.environ.get("BREW_PUBLIC_NETS_FLOP", 30e9))      # of a forward pass; with more it takes long, and finds nothing new


def unique_nets(folder: Path) -> dict[str, list[tuple[Path, pb.NetParameter]]]:
    """The nets that can be read, under a hash of their text."""
    found: dict[str, list[tuple[Path, pb.NetParameter]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        text = path.read_text(errors="replace")
        if not re.search(r"^\s*(base_lr|lr_policy|train_net|test_iter)\s*:", text, re.M):       # no solver
            try:
                net = read_net(path)
            except PrototxtError:
                continue                            # tests/proto/test_corpus.py counts these
            found.setdefault(hashlib.sha1(to_text(net).encode()).hexdigest(), []).append((path, net))
    return found


def image_shape(layer: pb.LayerParameter, batch: int, other: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of the first top of a layer that reads images."""
    t, p = layer.transform_param, layer.image_data_param
    source = (layer.data_param.source or p.source or layer.hdf5_data_param.source).lower()
    channels, height, width = next((size for name, size in SIZES.items() if name in source), other)
    if layer.type == "MemoryData":
        m = layer.memory_data_param
        channels, height, width = m.channels, m.height, m.width
    if p.new_height:
        height, width = p.new_height, p.new_width
    crop = t.crop_size or layer.window_data_param.crop_size
    height, width = (t.resize_param.height or crop or height, t.resize_param.width or crop or width)
    return (batch, 1 if t.force_gray or not p.is_color else channels, height, width)


def shrink(shape: pb.BlobShape, batch: int) -> None:
    if len(shape.dim) == 4 and shape.dim[0] > batch:
        shape.dim[0] = batch


class Guess:
    """A net with Inputs instead of its readers; `repair` changes a shape for what an error asks for."""

    def __init__(self, net: pb.NetParameter, batch: int, phase: int, other: tuple[int, int, int], stages: tuple[str, ...]):
        self.param, self.phase = pb.NetParameter(), phase
        self.param.CopyFrom(net)
        self.param.state.stage.extend(stages)
        self.param.force_backward = True
        self.shapes: dict[str, list[int]] = {}
        layers, names = [], set()
        for layer in self.param.layer:
            if layer.type == "Input":
                for shape in layer.input_param.shape:
                    shrink(shape, batch)
            if layer.type not in READERS:
                layers.append(layer)
                continue
            for i, top in enumerate(layer.top):
                new = pb.LayerParameter(name=f"{layer.name}/{top}", type="Input", top=[top], include=layer.include, exclude=layer.exclude)
                names.add(top)
                self.shapes.setdefault(top, list(image_shape(layer, batch, other)) if i == 0 else [1, 1, 1, 8] if layer.type == "AnnotatedData" else [batch])
                layers.append(new)
        copies = [pb.LayerParameter.FromString(layer.SerializeToString()) for layer in layers]
        del self.param.layer[:]
        self.param.layer.extend(copies)
        self.names = names

    def build(self, dry: bool) -> brew.Net:
        for layer in self.param.layer:
            if layer.type == "Input" and layer.top[0] in self.names:
                del layer.input_param.shape[:]
                layer.input_param.shape.add(dim=self.shapes[layer.top[0]])
        if dry:
            with dry_run():
                return brew.Net(self.param, self.phase, seed=1)
        return brew.Net(self.param, self.phase, seed=1)

    def repair(self, error: BrewError) -> bool:
        """Whether a guess could be changed so that this error goes away."""
        text = str(error)
        bottoms = next((layer.bottom for layer in self.param.layer if f'layer "{layer.name}" ' in text), [])
        guessed = [name for name in bottoms if name in self.names]
        found = (re.search(r"have (\d+) (?:positions|pixels); there are", text), re.search(r"shapes are \(([\d, ]+)\) and", text),
                 re.search(r"needs? the shape \(([\d, ]+)\)", text), re.search(r"bottom 0 has (?:the shape )?\(([\d, ]+)\)", text))
        for match in found:
            if match and guessed:
                shape = [int(d) for d in match[1].split(",") if d.strip()]
                if shape != self.shapes[guessed[-1]]:
                    self.shapes[guessed[-1]] = shape
                    return True
        return False


def build(net: pb.NetParameter, least: int) -> tuple[Guess, brew.Net]:
    """The net's shapes, in TRAIN if it has a loss there, with `least` items in a batch if that is possible."""
    last: BrewError | None = None
    stages = sorted({s for layer in net.layer for rule in (*layer.include, *layer.exclude) for s in (*rule.stage, *rule.not_stage)})
    for chosen, other, batch, phase in product([(), *((s,) for s in stages), *combinations(stages, 2)], OTHERS, (least, 16, 64, 1), (brew.TRAIN, brew.TEST)):
        guess = Guess(net, batch, phase, other, chosen)
        for _ in range(6):
            try:
                return guess, guess.build(dry=True)
            except BrewError as e:
                last = last or e
                if not guess.repair(e):
                    break
    assert last is not None
    raise last


def cost(net: brew.Net) -> tuple[int, int]:
    """(bytes of all values and gradients, multiplications and additions of a forward pass)."""
    weights = {id(blob): blob.count for blobs in net.params.values() for blob in blobs}
    return (8 * (sum(b.count for b in net.blobs.values()) + sum(weights.values())),
            sum(layer.flops(b, t) for layer, b, t in zip(net.layers, net.bottoms, net.tops)))


def run(guess: Guess) -> None:
    """Forward and backward with random values; every gradient must be a number."""
    net, rng = guess.build(dry=False), np.random.default_rng(0)
    for layer, tops in zip(net.layers, net.tops):
        for blob in tops if layer.type == "Input" else []:
            labels = len(blob.shape) < 3 or blob.shape[-1] in (5, 8)
            blob.data[...] = [0, 1, 0, 0.1, 0.1, 0.6, 0.6, 0] if blob.shape == (1, 1, 1, 8) else 0 if labels else rng.uniform(-1, 1, blob.shape)
        for i, blob in enumerate(layer.blobs):
            if layer.type == "BatchNorm" and i in (1, 2):
                blob.data[...] = 1                  # a file of weights would bring statistics
            elif len(blob.shape) > 1 and not blob.data.any():
                blob.data[...] = rng.normal(0, (2 / max(blob.count // blob.shape[0], 1)) ** 0.5, blob.shape)      # and weights
    net.forward()
    net.backward()
    for name, blobs in net.params.items():
        for blob in blobs:
            assert np.isfinite(blob.diff).all(), f"a gradient of {name} is not finite"


def test_public_nets_run(shared: Path) -> None:
    logging.getLogger("brew").setLevel(logging.ERROR)
    counts: Counter[str] = Counter()
    reasons: list[str] = []
    try:
        for same in unique_nets(shared / "data/prototxts").values():
            path, net = same[0]
            types = {layer.type for layer in net.layer}
            name = path.relative_to(shared / "data/prototxts")
            counts["unique nets"] += 1
            if not net.layer or "Python" in types or types - set(brew.LAYERS):
                counts["no layers" if not net.layer else "with Python layers" if "Python" in types else "with unknown types"] += 1
                continue
            counts["candidates"] += 1
            try:
                guess, shapes = build(net, 2)
                counts["built"] += 1
                need, work = cost(shapes)
                if need > 4 * GIB or work > MOST_WORK:
                    guess, shapes = build(net, 1)
                    need, work = cost(shapes)
                if need > 4 * GIB or work > MOST_WORK:
                    counts["too large"] += 1
                    reasons.append(f"{name}: {need / GIB:.1f} GiB, {work / 1e9:.0f} GFLOP: not run")
                    continue
                run(guess)
                counts["run"] += 1
            except (BrewError, AssertionError) as e:
                reasons.append(f"{name}: {str(e).splitlines()[0]}")
                counts["failed"] += 1
    finally:
        logging.getLogger("brew").setLevel(logging.NOTSET)
    print(dict(counts), *reasons, sep="\n")
    assert counts["built"] >= 0.95 * counts["candidates"] and counts["run"] + counts["too large"] == counts["built"]
