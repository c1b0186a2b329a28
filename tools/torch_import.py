"""brew import: weights of PyTorch models (state dicts) as a prototxt and a caffemodel."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.errors import DataError, Position, WeightsError, nearest, read_bytes, require
from ..engine.files import check_writable
from ..proto import brew_pb2 as pb
from ..proto import read_net
from .surgery import Model, require_known

State = Mapping[str, np.ndarray]
ZOO = Path(__file__).resolve().parents[1] / "models"
STATISTICS = ("running_mean", "running_var")


# ---------------------------------------------------------------------------------- names: brew's layer -> torch's module


def _vgg16(layers: list[str]) -> dict[str, str]:
    places = ["features.0", "features.2", "features.5", "features.7", "features.10", "features.12", "features.14", "features.17", "features.19", "features.21",
              "features.24", "features.26", "features.28", "classifier.0", "classifier.3", "classifier.6"]
    return dict(zip(layers, places))


def _squeezenet(layers: list[str]) -> dict[str, str]:
    numbers = dict(zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12)))            # fire2 .. fire9; the poolings take numbers, too
    fires = {f"fire{fire}/{part}": f"features.{k}.{part.replace('squeeze1x1', 'squeeze')}" for fire, k in numbers.items() for part in ("squeeze1x1", "expand1x1", "expand3x3")}
    return {"conv1": "features.0", **fires, "conv10": "classifier.1"}


def _resnet50(layers: list[str]) -> dict[str, str]:
    def place(name: str) -> tuple[str, str]:
        """(convolution, its normalisation) in torch of the convolution `name`."""
        if name == "conv1":
            return "conv1", "bn1"
        block, branch = name.removeprefix("res").split("_branch")
        inside = f"layer{int(block[0]) - 1}.{ord(block[1]) - ord('a')}"
        k = "abc".index(branch[1]) + 1 if branch != "1" else 0
        return (f"{inside}.conv{k}", f"{inside}.bn{k}") if k else (f"{inside}.downsample.0", f"{inside}.downsample.1")
    return {name: "fc" if name == "fc1000" else place(name.split("/")[0])["/" in name] for name in layers}


def _inception_v3(layers: list[str]) -> dict[str, str]:
    stem = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")))
    blocks = dict(zip((f"mixed{k}" for k in range(1, 12)), ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")))
    double = {"reduce": "branch3x3dbl_1", "1": "branch3x3dbl_2", "2": "branch3x3dbl_3", "a": "branch3x3dbl_3a", "b": "branch3x3dbl_3b"}
    wide = {"reduce": "branch7x7dbl_1", "1": "branch7x7dbl_2", "2": "branch7x7dbl_3", "3": "branch7x7dbl_4", "4": "branch7x7dbl_5"}
    parts = {"1x1": "branch1x1", "5x5_reduce": "branch5x5_1", "5x5": "branch5x5_2", "pool_proj": "branch_pool", "7x7_reduce": "branch7x7_1", "7x7_1": "branch7x7_2", "7x7_2": "branch7x7_3"}

    def place(name: str) -> str:
        block, _, part = name.partition("/")
        if not part:
            return stem[block]
        torch = blocks[block]
        if part.startswith("double_"):
            found = (wide if torch in ("6b", "6c", "6d", "6e") else double)[part.removeprefix("double_")]
        elif torch == "6a" and part == "3x3":
            found = "branch3x3"
        elif torch == "7a":
            found = {"3x3_reduce": "branch3x3_1", "3x3": "branch3x3_2", "7x7_reduce": "branch7x7x3_1", "7x7_1": "branch7x7x3_2", "7x7_2": "branch7x7x3_3", "7x7_3": "branch7x7x3_4"}[part]
        elif part.startswith("3x3"):
            found = {"3x3_reduce": "branch3x3_1", "3x3_a": "branch3x3_2a", "3x3_b": "branch3x3_2b"}[part]
        else:
            found = parts[part]
        return f"Mixed_{torch}.{found}"
    bare = {name: name.removesuffix("/bn").removesuffix("/scale") for name in layers}
    return {name: "fc" if name == "predictions" else f"{place(of)}.{'conv' if name == of else 'bn'}" for name, of in bare.items()}


# ------------------------------------------------------------------------------------------- nets that differ in torchvision


def _resnet_v1_5(net: pb.NetParameter) -> None:
    """torchvision's ResNet: the stride is the 3 x 3 convolution's, and the first pooling is padded and rounds down."""
    layers = {layer.name: layer for layer in net.layer}
    for stage in "345":
        first, second = (layers[f"res{stage}a_branch2{k}"].convolution_param for k in "ab")
        second.stride[:] = first.stride
        first.ClearField("stride")
    layers["pool1"].pooling_param.pad = 1
    layers["pool1"].pooling_param.round_mode = pb.PoolingParameter.FLOOR


@dataclass(frozen=True)
class Recipe:
    """A zoo net as torchvision has it: its names, its classifier, what is different, and its input's normalisation (RGB, 0 to 1)."""

    names: Callable[[list[str]], dict[str, str]]
    classifier: str
    change: Callable[[pb.NetParameter], None] = lambda net: None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    unused: str = "-"                                        # prefix of what the net here does not have


RECIPES = {"vgg16": Recipe(_vgg16, "fc8"), "squeezenet": Recipe(_squeezenet, "conv10"), "resnet50": Recipe(_resnet50, "fc1000", _resnet_v1_5),
           "inception_v3": Recipe(_inception_v3, "predictions", mean=(0.5,) * 3, std=(0.5,) * 3, unused="AuxLogits.")}


def import_torchvision(name: str, state: State) -> Model:
    """The zoo net `name` as torchvision has it, with the weights of its state dict; it takes Caffe's images: BGR, 0 to 255, less the
    mean (see mean_of), whatever torch was trained on. Raises WeightsError."""
    recipe = RECIPES[name]
    net = read_net(ZOO / name / "deploy.prototxt")
    recipe.change(net)
    names = recipe.names([layer.name for layer in net.layer if layer.type in ("Convolution", "InnerProduct", "BatchNorm", "Scale")])
    scores = state.get(f"{names[recipe.classifier]}.weight")
    for layer in net.layer:
        if layer.name == recipe.classifier and scores is not None:
            (layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param).num_output = len(scores)
    model = import_state(net, {k: v for k, v in state.items() if not k.startswith(recipe.unused)}, names)
    first = next(layer.name for layer in net.layer if layer.type == "Convolution")
    std = np.array(recipe.std, np.float32)[:, None, None]
    model.weights[first][0] = np.ascontiguousarray((model.weights[first][0] / (255 * std))[:, ::-1])
    return model


def mean_of(name: str) -> list[float]:
    """What is to be subtracted from B, G and R (0 to 255) for a net of import_torchvision()."""
    return [round(255 * m, 3) for m in RECIPES[name].mean[::-1]]


def import_state(net: pb.NetParameter, state: State, names: Mapping[str, str]) -> Model:
    """`net` with the weights of a state dict; `names` gives the torch module of each layer with parameters.

    A Convolution, InnerProduct, Deconvolution, PReLU, Embed takes `weight` (and `bias`); BatchNorm `running_mean` and `running_var`; Scale
    `weight` and `bias`, so that torch's one module serves the two layers.  Raises WeightsError for what is missing or does not fit, and
    for entries of the state dict that no layer takes.
    """
    model, used = Model(net, {}), set()
    built = model.shapes()
    for param in built.unknown:
        require_known(built, param)
    for layer in built.nodes:
        if not layer.blobs:
            continue
        require(layer.name in names, layer.param, "has parameters; no module is named for it", error=WeightsError)
        parts = STATISTICS if layer.type == "BatchNorm" else ("weight", "bias")[:len(layer.blobs)]
        arrays = []
        for part, blob in zip(parts, layer.blobs):
            key = f"{names[layer.name]}.{part}"
            require(key in state, layer.param, f'the state dict has no "{key}"{nearest(key, state)}', error=WeightsError)
            array = np.asarray(state[key], np.float32)
            require(array.size == blob.count, layer.param, f'"{key}" has the shape {array.shape}; {blob.shape} is needed', error=WeightsError)
            arrays.append(array.reshape(blob.shape).copy())
            used.add(key)
        model.weights[layer.name] = [*arrays, np.ones(1, np.float32)] if layer.type == "BatchNorm" else arrays
    left = sorted(key for key in state if key not in used and not key.endswith("num_batches_tracked"))
    if left:
        raise WeightsError(f"{len(left)} entries of the state dict belong to no layer: {', '.join(left[:8])}{', ...' if len(left) > 8 else ''}")
    return model


# ------------------------------------------------------------------------------------------------------------ command line


def read_state(path: str) -> dict[str, np.ndarray]:
    """The arrays of a .pth file: a state dict, also as training scripts wrap it ({"state_dict": ...}, "module." before names)."""
    try:
        import torch
    except ImportError:
        raise DataError("reading this needs torch: pip install torch", Position(path)) from None
    read_bytes(path, "this state dict", DataError)
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:                                   # whatever pickles raise
        raise DataError(f"this is no state dict that can be read safely: {str(e).splitlines()[0]}\n  in torch: torch.save(model.state_dict(), path)", Position(path)) from None
    for key in ("state_dict", "model"):
        found = found[key] if isinstance(found, dict) and isinstance(found.get(key), dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise DataError("this is no state dict: names with tensors are needed", Position(path))
    return {str(k).removeprefix("module."): v.numpy() for k, v in found.items()}


def import_weights(args: argparse.Namespace) -> int:
    """Write what `brew import` was asked for. Raises BrewError."""
    check_writable(args.out_model, args.out_weights)
    state = read_state(args.state)
    if args.names:
        model = import_state(read_net(args.net), state, _names(args.names))
        said = "the first layer is as it was: the net takes what the torch model took"
    elif args.net in RECIPES:
        model = import_torchvision(args.net, state)
        said = f"images: BGR, 0 to 255, less {', '.join(map(str, mean_of(args.net)))} (the normalisation of torchvision is in the first layer's weights)"
    else:
        raise WeightsError(f"names are known for {', '.join(sorted(RECIPES))}; for another net give its prototxt, and -names{nearest(args.net, RECIPES)}"
                           "\n  torchvision's alexnet, googlenet and mobilenets are other nets than those of the papers, which the zoo has")
    model.save(args.out_model, args.out_weights)
    print(f"{said}\n{args.out_model} {args.out_weights}")
    return 0


def _names(path: str) -> dict[str, str]:
    """The lines `layer module` of a file."""
    found = {}
    for number, line in enumerate(read_bytes(path, "this list of names", DataError).decode(errors="replace").splitlines(), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            if len(words) != 2:
                raise DataError(f"a layer and a module are needed, found {line.strip()!r}", Position(path, number))
            found[words[0]] = words[1]
    return found
