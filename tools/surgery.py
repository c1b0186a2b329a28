"""Net surgery: nets and their weights changed together, and written as what brew, or Caffe, reads."""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..engine import weights as files
from ..engine.errors import NetError, Position, WeightsError, nearest, require
from ..engine.files import check_writable, write_whole
from ..engine.context import dry_run
from ..engine.net import Net
from ..engine.passes import filter_layers
from ..proto import brew_pb2 as pb
from ..proto import from_array, read_net, to_half, to_text


class Model:
    """A net and its weights, in memory.

    net      the prototxt's path, a NetParameter, or None for weights alone
    weights  the caffemodel's path (binary or .h5), or {layer: its arrays}

    half     write weights in half precision, as NVIDIA's fork does and reads

    Members: `net` (NetParameter or None), `weights` ({layer: [array, ...]}, float32). Raises PrototxtError, WeightsError.
    """

    def __init__(self, net: str | Path | pb.NetParameter | None, weights: str | Path | Mapping[str, Sequence[np.ndarray]]):
        self.file = str(weights) if isinstance(weights, (str, Path)) else ""
        self.half = False
        self.net: pb.NetParameter | None = None
        if net is not None:
            self.net = pb.NetParameter()
            self.net.CopyFrom(net if isinstance(net, pb.NetParameter) else read_net(net))
        if self.file:
            stored = files.read(self.file)
            self.weights = {name: [array.reshape(shape) for array, shape in blobs.values()] for name, blobs in stored.items() if blobs}
        else:
            self.weights = {name: list(arrays) for name, arrays in weights.items()}  # type: ignore[union-attr]

    def save(self, net: str | Path | None, weights: str | Path) -> None:
        """Write a prototxt (None: do not) and a binary caffemodel: both, or neither if one cannot be written."""
        check_writable(*(path for path in (net, weights) if path is not None))
        if net is not None:
            write_whole(net, to_text(self.whole_net()).encode())
        write_whole(weights, self.to_proto().SerializeToString())

    def to_proto(self) -> pb.NetParameter:
        """Names, types and blobs, as a caffemodel has them."""
        types = {layer.name: layer.type for layer in self.net.layer} if self.net else {}
        proto = pb.NetParameter(name=self.net.name if self.net else "")
        for name, arrays in self.weights.items():
            try:
                blobs = [(to_half if self.half else from_array)(array) for array in arrays]
            except WeightsError as e:
                raise WeightsError(f'layer "{name}": {e}') from None
            proto.layer.add(name=name, type=types.get(name, ""), blobs=blobs)
        return proto

    def build(self, phase: int = pb.TEST) -> Net:
        """The net, ready to run. Raises NetError, WeightsError."""
        param = pb.NetParameter()
        param.CopyFrom(self.whole_net())
        for layer in param.layer:
            layer.blobs.extend(from_array(array) for array in self.weights.get(layer.name, ()))
        return Net(param, phase)

    def shapes(self, phase: int = pb.TEST) -> Net:
        """The net's layers with their shapes; it cannot run. Python layers are not imported: they, and the layers that
        depend on them, are in its `unknown` instead."""
        with dry_run():
            return Net(self.whole_net(), phase)

    def whole_net(self) -> pb.NetParameter:
        """The net. Raises NetError for a model of weights alone."""
        if self.net is None:
            raise NetError("this needs the net's prototxt, not only its weights")
        return self.net

    def check_names(self, names: Sequence[str]) -> None:
        """Raise NetError unless each is a layer of the net (or, of weights alone, of these)."""
        known = {layer.name for layer in self.net.layer} if self.net else set(self.weights)
        for name in names:
            if name not in known:
                raise NetError(f'there is no layer "{name}"{nearest(name, known)}', Position(self.file) if self.file else None)


def rename(model: Model, names: Mapping[str, str]) -> None:
    """Give layers other names, {old: new}. Blobs keep theirs. Raises NetError for an unknown or a taken name."""
    model.check_names(list(names))
    kept = ({layer.name for layer in model.net.layer} if model.net else set()) | set(model.weights)
    taken = (kept - set(names)) & set(names.values())
    if taken or len(set(names.values())) < len(names):
        raise NetError(f'there would be two layers "{min(taken or names.values())}"')
    for layer in model.net.layer if model.net else ():
        layer.name = names.get(layer.name, layer.name)
    model.weights = {names.get(name, name): arrays for name, arrays in model.weights.items()}


def drop(model: Model, names: Sequence[str]) -> None:
    """Remove layers. Who read the top of one with one bottom and one top reads its bottom instead; anything else that is still
    read is an error (NetError)."""
    model.check_names(names)
    if model.net:
        kept = pb.NetParameter()
        instead: dict[str, tuple[str, pb.LayerParameter]] = {}             # a blob that is gone: (what is read in its place, who made it)
        for layer in model.net.layer:
            if layer.name in names:
                if list(layer.bottom) != list(layer.top):                  # in place, it leaves the blob as it is
                    passes = len(layer.bottom) == len(layer.top) == 1
                    source = instead.get(layer.bottom[0], (layer.bottom[0],))[0] if passes else ""
                    instead.update({blob: (source, layer) for blob in layer.top})
                continue
            for i, blob in enumerate(layer.bottom):
                if blob in instead:
                    layer.bottom[i], gone = instead[blob]
                    require(layer.bottom[i], gone, f'makes blob "{blob}" from {len(gone.bottom)} bottoms; layer "{layer.name}" still reads it', "top")
            for blob in layer.top:
                instead.pop(blob, None)
            kept.layer.add().CopyFrom(layer)
        del model.net.layer[:]
        model.net.layer.extend(kept.layer)
    for name in names:
        model.weights.pop(name, None)


def cast(model: Model, names: Mapping[str, str]) -> None:
    """Make InnerProduct layers {old name: new name} Convolutions that give the same on an input of today's size, and on a larger
    one slide over it (Long, Shelhamer, Darrell 2015, section 3.1). Raises NetError for layers that cannot."""
    model.check_names(list(names))
    for layer in [layer for layer in model.whole_net().layer if layer.name in names]:
        require(layer.type == "InnerProduct", layer, "is not an InnerProduct, which alone becomes a Convolution", "type")
        built, p = model.shapes(), layer.inner_product_param
        if layer.name not in built.named_nodes:
            built = model.shapes(pb.TRAIN)
        require_known(built, layer)
        shape = built.bottoms[list(built.named_nodes).index(layer.name)][0].shape
        require(p.axis in (1, 1 - len(shape)), layer, "joins other axes than channels, height and width", "inner_product_param.axis")
        require(len(shape) == 4, layer, f"reads a blob of shape {shape}, which has no height and width"
                "\n  cast the InnerProducts before it, too, and drop a Flatten", "bottom")
        weights = model.weights.get(layer.name)
        if weights:
            matrix = weights[0].reshape(weights[0].shape[-2:])
            weights[0] = np.ascontiguousarray(matrix.T if p.transpose else matrix).reshape(p.num_output, *shape[1:])
        c = pb.ConvolutionParameter(num_output=p.num_output, bias_term=p.bias_term)
        if shape[2] == shape[3]:
            c.kernel_size.append(shape[2])
        else:
            c.kernel_h, c.kernel_w = shape[2:]
        for filler in ("weight_filler", "bias_filler"):
            if p.HasField(filler):
                getattr(c, filler).CopyFrom(getattr(p, filler))
        layer.ClearField("inner_product_param")
        layer.type = "Convolution"
        layer.convolution_param.CopyFrom(c)
    rename(model, {old: new for old, new in names.items() if old != new})


def require_known(built: Net, layer: pb.LayerParameter) -> None:
    """Raise NetError for a layer whose shapes are unknown."""
    require(all(layer.name != other.name for other in built.unknown), layer,
            "depends on a Python layer, which is not imported here: its shapes are unknown", "bottom")


def transplant(model: Model, donor: Model, names: Mapping[str, str] | None = None) -> list[str]:
    """Take the weights of `donor`'s layers: {layer here: layer there}, or all that both name and that have as many values.
    Arrays take the shapes that they have here. Returns the layers that were given weights. Raises WeightsError."""
    shapes = {name: [a.shape for a in arrays] for name, arrays in model.weights.items()}
    if model.net:
        shapes |= {layer.name: [b.shape for b in layer.blobs] for layer in model.shapes().nodes if layer.blobs}
    pairs = {name: name for name in shapes if name in donor.weights} if names is None else dict(names)
    done = []
    for mine, theirs in pairs.items():
        for name, known, whose in ((mine, shapes, "this model"), (theirs, donor.weights, "the donor")):
            if name not in known:
                raise WeightsError(f'{whose} has no weights of a layer "{name}"{nearest(name, known)}')
        arrays = donor.weights[theirs]
        if [a.size for a in arrays] != [int(np.prod(s)) for s in shapes[mine]]:
            if names is None:
                continue
            raise WeightsError(f'layer "{mine}" has parameters of the shapes {shapes[mine]}, "{theirs}" of the donor {[a.shape for a in arrays]}')
        model.weights[mine] = [a.reshape(s).copy() for a, s in zip(arrays, shapes[mine])]
        done.append(mine)
    if not done:
        raise WeightsError("no layer of the donor has the name and the number of weights of a layer here")
    return done


def fold(model: Model) -> list[str]:
    """Let convolutions do the work of the BatchNorm, Scale (and other layers that only scale and shift channels) behind them. The
    net becomes that of TEST, for which alone that holds. Returns the names of the layers that are gone. Raises NetError."""
    net = pb.NetParameter()
    net.CopyFrom(model.whole_net())
    net.state.phase = pb.TEST
    net = filter_layers(net)
    built = model.shapes().named_nodes
    layers, gone = list(net.layer), []
    for i, layer in enumerate(layers):
        if layer.type not in ("Convolution", "Deconvolution") or layer.type == "Deconvolution" and layer.convolution_param.group > 1 \
                or any(spec.name for spec in layer.param) or layer.name not in model.weights:
            continue
        while True:
            readers = [other for other in layers[i + 1:] if layer.top[0] in other.bottom and other.name not in gone]
            nearer = readers[0] if readers else None
            if nearer is None or nearer.name not in built:
                break
            if not built[nearer.name].per_channel or len(nearer.bottom) > 1:
                break
            if nearer.top[0] != layer.top[0] and len(readers) > 1:
                break
            for k, blob in enumerate(built[nearer.name].blobs):
                require(len(model.weights.get(nearer.name, ())) == len(built[nearer.name].blobs), nearer, "has no weights, or too few, in this model", error=WeightsError)
                blob.load_array(model.weights[nearer.name][k], model.weights[nearer.name][k].shape, f'blob {k} of layer "{nearer.name}"')
            scale, shift = built[nearer.name].affine()
            w, *bias = model.weights[layer.name]
            out = 1 if layer.type == "Deconvolution" else 0                # the axis of its outputs
            factor = scale.reshape([-1 if axis == out else 1 for axis in range(w.ndim)])
            model.weights[layer.name] = [w * factor, (bias[0].reshape(-1) if bias else 0) * scale + shift]
            layer.convolution_param.bias_term = True
            layer.top[0] = nearer.top[0]
            gone.append(nearer.name)
            model.weights.pop(nearer.name, None)
    del net.layer[:]
    net.layer.extend(layer for layer in layers if layer.name not in gone)
    net.ClearField("state")
    for layer in net.layer:
        for field in ("phase", "include", "exclude"):
            layer.ClearField(field)
    model.net = net
    return gone


def average(models: Sequence[Model], shares: Sequence[float] | None = None) -> Model:
    """The mean of several models' weights, or their weighted mean (`shares` need not add up to 1). Raises WeightsError if they
    differ in layers or shapes. BatchNorm's running sums are brought to the same number of updates first."""
    shares = [1.0] * len(models) if shares is None else list(shares)
    if len(shares) != len(models) or not models or sum(shares) == 0:
        raise WeightsError(f"each of the {len(models)} models has one share, and they do not cancel; found {shares}")
    first = models[0]
    found: dict[str, list[np.ndarray]] = {}
    for name, arrays in first.weights.items():
        everyone = [m.weights.get(name, []) for m in models]
        for other, theirs in zip(models, everyone):
            if [a.shape for a in theirs] != [a.shape for a in arrays]:
                raise WeightsError(f'layer "{name}" has the shapes {[a.shape for a in arrays]} in {first.file or "the first model"} and '
                                   f'{[a.shape for a in theirs]} in {other.file or "another"}')
        if len(arrays) in (3, 5) and arrays[2].size == 1:                  # BatchNorm: mean and variance times a factor, the factor, perhaps scale and shift
            everyone = [[mean / (factor.item() or 1), variance / (factor.item() or 1), np.ones_like(factor), *own] for mean, variance, factor, *own in everyone]
        found[name] = [np.asarray(sum(s * a.astype(np.float64) for s, a in zip(shares, same)) / sum(shares), np.float32) for same in zip(*everyone)]
    for other in models[1:]:
        extra = sorted(set(other.weights) - set(found))
        if extra:
            raise WeightsError(f'layer "{extra[0]}" is only in {other.file or "one of the models"}')
    return Model(first.net, found)


# ------------------------------------------------------------------------------------------------------------ command line


def surgery(args: argparse.Namespace) -> int:
    """Do what `brew surgery` was asked to; prints what it did. Raises BrewError."""
    operation, words = args.operation, args.words
    check_writable(*(path for path in (args.out_model, args.out_weights) if path))
    if operation == "average":
        if words:
            raise NetError(f"brew surgery average takes its models from -weights, found {' '.join(words)}")
        result = average([Model(args.model or None, name) for name in args.weights.split(",")], _numbers(args.shares))
        said = f"{len(args.weights.split(','))} models averaged"
    else:
        result, said = Model(args.model or None, args.weights), ""
        if not words and operation in ("rename", "drop", "cast", "prune"):
            raise NetError(f"brew surgery {operation} needs the names of layers")
    if operation in ("cast", "prune", "fold") and not args.out_model:
        raise NetError(f"brew surgery {operation} changes the net, too: -out_model says where to write it")
    if operation == "rename":
        rename(result, _pairs(words, needed=True))
        said = ", ".join(words)
    elif operation == "drop":
        drop(result, words)
        said = f"dropped {', '.join(words)}"
    elif operation == "cast":
        cast(result, _pairs(words))
        said = f"Convolution: {', '.join(_pairs(words).values())}"
    elif operation == "cast-half":
        if words:
            raise NetError(f"brew surgery cast-half takes all layers, found {' '.join(words)}")
        result.half, said = True, "half precision"
    elif operation == "transplant":
        if not args.donor:
            raise NetError("brew surgery transplant needs -donor, the caffemodel that weights come from")
        said = f"from {args.donor}: {', '.join(transplant(result, Model(None, args.donor), _pairs(words) if words else None))}"
    elif operation == "prune":
        from .prune import prune
        parts = dict(zip(_pairs(words, needed=True), _numbers(",".join(_pairs(words, needed=True).values())) or ()))
        said = ", ".join(f"{name}: {len(stay)} channels stay" for name, stay in prune(result, parts).items())
    elif operation == "fold":
        said = f"folded {', '.join(fold(result)) or 'nothing'}"
    result.save(args.out_model or None, args.out_weights)
    print(f"{said}\n{' '.join(path for path in (args.out_model, args.out_weights) if path)}")
    return 0


def _pairs(words: Sequence[str], needed: bool = False) -> dict[str, str]:
    """{a: b} of the words a=b; of a word a alone, unless a second is needed, {a: a}."""
    pairs = [word.partition("=") for word in words]
    wrong = next((word for word, (a, sign, b) in zip(words, pairs) if not a or (sign and not b) or needed and not sign), None)
    if wrong is not None:
        raise NetError(f"LAYER=... is needed, found {wrong!r}")
    return {a: b or a for a, _, b in pairs}


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(word) for word in text.split(",")] if text else None
    except ValueError:
        raise NetError(f"numbers are needed, found {text!r}") from None
