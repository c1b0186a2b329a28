"""Every binding of the compiled modules, called as nets call it and then with each array too short.

Run as a script, in a process of its own: a mistake here is an access outside of an array. Each real call is first repeated
with one array one value (or row) shorter, not contiguous, or of another type, which must raise an exception, and with each
number changed, which must raise one or do no harm: tests/sanitize.sh looks for that. Prints what raised none, and which
bindings were never called.
"""
from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import brew
from brew.engine import context as devices
from brew.engine.layer import Layer
from brew.kernels import cpu, onednn
from brew.proto import parse, pb
from brew.tools.gradient_check import one_layer_net

ROOT = Path(__file__).parents[1]
# take no arrays
SETTINGS = {"release_threads", "set_threads", "best_isa", "parse_datum", "parse_rows", "widest_row", "winograd_gradient_memory", "max_lanes",
            "version"}
ALONE = {"sum_squares", "random_uniform", "random_normal", "random_words", "group_rows"}      # any length is right
LARGER = {("winograd_weights", 1), ("winograd_forward", 1), ("winograd_backward_weights", 2), ("ctc", 6)}      # scratch, which may be longer
# a row less may still be an image, or shorter rows
# or no row that is used
ITEMS = {"transform_image", "transform_floats", "crop_image", "copy_rows", "units_forward", "units_backward", "merge_best", "update_rows"}
OFTEN = 4                                                                              # calls of each binding with arguments of these kinds
failures: list[str] = []
called: Counter[str] = Counter()
seen: Counter[Any] = Counter()


def too_short(name: str, index: int, a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    flat = a.reshape(-1)
    if name not in ALONE:
        yield "short", flat[:1] if (name, index) in LARGER else flat[:-1]
        if a.ndim > 1 and len(a) > 1 and name not in ITEMS and (name, index) not in LARGER:
            yield "a row less", a[:-1]
    if a.size > 1:
        yield "strided", np.repeat(flat, 2)[::2].reshape(a.shape) if a.ndim == 1 else np.repeat(a, 2, -1)[..., ::2]
    with np.errstate(invalid="ignore"):                                                # what was never written may be anything
        yield "of another type", a.astype(np.float64)


def changed(value: Any) -> Iterator[Any]:
    """Other numbers in the place of this one."""
    if isinstance(value, bool) or not isinstance(value, (int, list, tuple)):
        return
    if isinstance(value, int):
        yield from (value + 1, value - 1, 2 * value + 3, 0, -1, -value, 2**31 - 1, 2**40)
        return
    for k, v in enumerate(value):
        for other in changed(v):
            yield [*value[:k], other, *value[k + 1:]]


def wrap(name: str, function: Callable[..., Any], method: bool) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        called[name] += 1
        kinds = tuple((a.ndim, a.size > 64) if isinstance(a, np.ndarray) else type(a) for a in args[method:])
        seen[name, kinds] += 1
        if seen[name, kinds] <= OFTEN:
            attempt(name, function, args, named, method)
        return function(*args, **named)
    return call


def attempt(name: str, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any], method: bool) -> None:
    def run(index: int, value: Any) -> bool:
        """Whether the call raises an exception. It works on copies."""
        copies = [a.copy() if isinstance(a, np.ndarray) and i != index else a for i, a in enumerate(args)]
        copies[index] = value
        try:
            function(*copies, **named)
        except (ValueError, IndexError, TypeError, MemoryError, RuntimeError):
            return True
        return False

    for i, a in enumerate(args[method:], method):
        if isinstance(a, np.ndarray) and a.size:
            failures.extend(f"{name}: argument {i - method} {what}, of {a.shape}" for what, short in too_short(name, i - method, a) if not run(i, short))
        for value in changed(a):
            run(i, value)


def record() -> None:
    """Let every binding repeat its calls."""
    modules: list[ModuleType] = [cpu] + ([onednn] if onednn else [])
    for module in modules:
        for name in bindings(module):
            setattr(module, name, wrap(name, getattr(module, name), False))
    for kind, names in (("Convolution", ("forward", "backward_data", "backward_weights")), ("WeightFormat", ("pack", "unpack"))) if onednn else ():
        for name in names:
            setattr(getattr(onednn, kind), name, wrap(f"{kind}.{name}", getattr(getattr(onednn, kind), name), True))


def bindings(module: ModuleType) -> list[str]:
    return sorted(n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n)) and not isinstance(getattr(module, n), type) and n not in SETTINGS)


def run_net(net: brew.Net, backward: bool = True) -> None:
    net.forward()
    if backward:
        for top in net.tops[-1]:
            if not any(net.layers[-1].loss_weights):
                top.diff[...] = 1
        net.backward()


def gradient_cases() -> ModuleType:
    path = ROOT / "layers" / "test_gradients.py"
    spec = importlib.util.spec_from_file_location("gradient_cases", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MORE: list[tuple[str, list[tuple[int, ...]], dict[int, Any]]] = [
    ('type: "Pooling" top: "y" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }', [(2, 3, 4, 4)], {}),
    ('type: "Pooling" top: "y" top: "mask" pooling_param { kernel_size: 2 stride: 2 }', [(2, 16, 5, 5)], {}),
    *((f'type: "{t}" top: "y" {p}', [(2, 4, 6, 5), (2, 5)], {1: [[0, 0, 0, 3, 3], [1, 1, 1, 4, 2]]}) for t, p in (
        ("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 }"),
        ("PSROIPooling", "psroi_pooling_param { output_dim: 1 group_size: 2 spatial_scale: 1 }"),
        ("ROIAlign", "roi_align_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 }"))),
    ('type: "PrecisionAtK" top: "y"', [(2, 70), (2, 3)], {1: [[1, 2, -1], [3, 4, 5]]}),
    ('type: "PrecisionAtK" top: "y" precision_param { k: 4 }', [(2, 3), (2, 3), (2, 2)],
     {1: [[7, 2, -1], [3, 4, 5]], 2: [[7, 1], [-1, -1]]}),
    ('type: "CTCLoss" top: "y"', [(5, 2, 4), (2, 3)], {1: [[1, 2, 0], [3, 3, 1]]}),
    ('type: "LSTM" top: "y" recurrent_param { num_output: 3 weight_filler { type: "gaussian" } }', [(4, 2, 5), (4, 2)], {1: 1}),
    ('type: "Convolution" top: "y" convolution_param { num_output: 64 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } }', [(4, 64, 10, 10)], {}),
    ('type: "Convolution" top: "y" convolution_param { num_output: 20 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } }', [(2, 40, 6, 6)], {}),
    ('type: "InnerProduct" top: "y" inner_product_param { num_output: 4 }', [(3, 300)], {}),
    *((f'type: "LSHInnerProduct" top: "y" top: "u" inner_product_param {{ num_output: 40 }} lsh_param {{ num_hashes: 2 num_tables: 3 bucket_size: 4 num_samples: 9 test_top_k: 3 {p} }}',
       [(5, 20), (5, 2)], {1: 3}) for p in ("hash: SIMHASH", "hash: DWTA sampling: TOP_K test: SAMPLED", "hash: WTA sampling: THRESHOLD active_set: BATCH rehash: INCREMENTAL rehash_interval: 1")),
]
CHAIN = """force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 16 dim: 9 dim: 9 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } } }
layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" } layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
layer { name: "d" type: "Convolution" bottom: "c" top: "d" convolution_param { num_output: 32 kernel_size: 1 weight_filler { type: "gaussian" } } }
layer { name: "e" type: "Eltwise" bottom: "c" bottom: "d" top: "e" } layer { name: "f" type: "ReLU" bottom: "e" top: "e" }"""
DETECT = """layer { name: "x" type: "Input" top: "l" top: "c" top: "p" input_param { shape { dim: 2 dim: 12 } shape { dim: 2 dim: 9 } shape { dim: 1 dim: 2 dim: 12 } } }
layer { name: "d" type: "DetectionOutput" bottom: "l" bottom: "c" bottom: "p" top: "d" detection_output_param { num_classes: 3 keep_top_k: 5 nms_param { nms_threshold: 0.5 } } }"""


def exercise() -> None:
    rng = np.random.default_rng(0)
    cases = gradient_cases()
    for layer, shapes, labels in cases.CASES:
        net = one_layer_net(layer, *shapes)
        cases.fill(net, labels)
        run_net(net)
    for layer, shapes, given in MORE:
        for phase in (brew.TRAIN, brew.TEST):
            net = one_layer_net(layer, *shapes, phase=phase)
            for i, blob in enumerate(net.bottoms[-1]):
                blob.data[...] = given.get(i, abs(rng.standard_normal(blob.shape)))
            run_net(net, phase == brew.TRAIN)
    for phase in (brew.TRAIN, brew.TEST):
        net = brew.Net(parse(CHAIN, pb.NetParameter()), phase)
        net.blobs["x"].data[...] = rng.standard_normal(net.blobs["x"].shape)
        run_net(net, phase == brew.TRAIN)
    net = brew.Net(parse(DETECT, pb.NetParameter()), brew.TEST)
    for blob in list(net.blobs.values())[:3]:
        blob.data[...] = abs(rng.standard_normal(blob.shape))
    net.forward()


def solvers() -> None:
    net = 'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } } } ' \
          'layer { name: "i" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 weight_filler { type: "uniform" } } } ' \
          'layer { name: "t" type: "DummyData" top: "t" dummy_data_param { shape { dim: 2 dim: 2 } } } layer { name: "l" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "l" }'
    for kind, more in (("SGD", "momentum: 0.9"), ("Nesterov", "momentum: 0.9"), ("AdaGrad", ""), ("RMSProp", "rms_decay: 0.9"), ("RMSProp", "rms_decay: 0.9 momentum: 0.5"),
                       ("AdaDelta", "momentum: 0.9 delta: 1e-6"), ("Adam", "momentum: 0.9"), ("AdamW", "momentum: 0.9")):
        Path("solver.prototxt").write_text(f'net_param {{ {net} }} type: "{kind}" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 clip_gradients: 5 snapshot_after_train: false {more}\n')
        brew.get_solver("solver.prototxt").step(2)
        if f"{kind.lower()}_update" in cpu.FUSED_UPDATES:
            sampled = net.replace('"InnerProduct"', '"LSHInnerProduct"').replace('top: "y" inner', 'top: "y" top: "u" lsh_param { num_samples: 2 sampling: UNIFORM } inner')
            by_rows = net.replace("dim: 3 }", "dim: 16 }").replace("num_output: 2", "num_output: 2 sparse_gradient: true")
            for text in (sampled, by_rows):
                Path("solver.prototxt").write_text(f'net_param {{ {text} }} type: "{kind}" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 snapshot_after_train: false {more}\n')
                brew.get_solver("solver.prototxt").step(2)


def transforms() -> None:
    datum = pb.Datum(channels=3, height=6, width=5, data=bytes(range(90)), label=1).SerializeToString()
    out, crops = np.empty((2, 3, 4, 4), np.float32), np.array([[1, 0, 0], [2, 1, 1]], np.int32)
    for mean in (np.zeros(0, np.float32), np.zeros(3, np.float32), np.zeros((3, 6, 5), np.float32)):
        assert cpu.transform_records([datum] * 2, out, np.empty(2, np.float32), crops, 6, 5, mean, 1.0) == ([], [])
        for i in range(2):
            cpu.transform_image(np.zeros((6, 5, 3), np.uint8), out, i, 1, 1, True, mean, 1.0)
            cpu.transform_floats(np.zeros((3, 6, 5), np.float32), out, i, 1, 1, False, mean, 1.0)
        pixels = np.empty((2, 3, 4, 4), np.uint8)
        assert cpu.crop_records([datum] * 2, pixels, np.empty(2, np.float32), crops, 6, 5) == ([], [])
        cpu.crop_image(np.zeros((6, 5, 3), np.uint8), pixels, 1, 1, 1, True)
        cpu.normalize(pixels, crops, mean, 2.0, out, 3, 4, 4, 6, 5)
    cpu.random_words(np.empty(7, np.uint32), 1, 2)
    a, b, c, d = np.zeros((4, 3, 5), np.float32)
    cpu.threshold_forward(a, b, 0.5, 0.0, 0.0)
    cpu.threshold_backward(a, b, c, d, 0.5, 0.0, 0.0)                                  # no layer asks for it


def sparse_rows() -> None:
    rows = cpu.parse_rows(b"1,2 3:1 5:2e-3\n4 1:2\n", 9, 9, 0, 0, False)
    records = cpu.pack_rows(*rows[:5])
    assert cpu.widest_row(records) == (2, 2, -1, "")
    cpu.join_rows(records, np.empty((2, 3), np.float32), np.empty((2, 3), np.int32), np.empty((2, 2), np.int32))


def winograd() -> None:
    """In this module's own blocks, which need not be oneDNN's."""
    lanes = int(cpu.winograd_lanes)
    shape = [2, lanes, 7, 5, 3 * lanes, 7, 5, 1, 1, 2]
    x, y, bias = np.ones(2 * 2 * lanes * 35, np.float32), np.empty(2 * 2 * 3 * lanes * 35, np.float32), np.ones(2 * 3 * lanes, np.float32)
    w, u, memory = np.ones(2 * 3 * lanes * lanes * 9, np.float32), np.empty(2 * 3 * lanes * lanes * 16, np.float32), np.empty(cpu.winograd_gradient_memory(shape), np.float32)
    for turned in (True, False):
        cpu.winograd_weights(w, u, 2, 3 * lanes, lanes, turned)
    for more in ((None, None), (bias, y.copy())):
        cpu.winograd_forward(x, u, *more, 0.0, y, shape)
        cpu.winograd_backward_weights(x, y, memory, w, more[0], 1.0, shape)


def main() -> int:
    record()
    for engine in ["onednn"] * bool(onednn) + ["caffe"]:
        with devices.using(devices.cpu_device(), engine):
            exercise()
    solvers()
    transforms()
    sparse_rows()
    winograd()
    names = [n for module in ([cpu] + ([onednn] if onednn else [])) for n in bindings(module)]
    print(f"{sum(called.values())} calls of {len(called)} bindings")
    print("\n".join([*(f"no exception: {f}" for f in dict.fromkeys(failures)), *(f"never called: {n}" for n in names if not called[n])]))
    objects = [n for module in ([cpu] + ([onednn] if onednn else [])) for n in bindings(module) if "object" in (getattr(module, n).__doc__ or "")]
    print("\n".join(f"takes an untyped object: {n}" for n in objects))
    return bool(failures or objects or [n for n in names if not called[n]])


if __name__ == "__main__":
    sys.exit(main())
