"""Weights in files: binary caffemodels and HDF5; and sharing them between nets."""
from __future__ import annotations

import logging
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..proto import brew_pb2 as pb
from ..proto import read_weights, shape_of
from . import aside
from .aside import Aside, beside_of, values_of
from .errors import Position, WeightsError
from .files import h5_array, h5_bytes, h5_members, write_whole
from .graph import Graph
from .resources import available_memory

log = logging.getLogger("brew")
HDF5, BINARY = b"\x89HDF\r\n\x1a\n", (b"\n", b"\xa2\x06")        # how HDF5 files begin; and NetParameters, with a name or a layer
Plan = list[tuple[Any, np.ndarray, tuple[int, ...], str]]        # blob, its values, their shape in the file, what errors call it


def load(graph: Graph, path: str) -> None:
    """Copy the weights of every layer that `path` and the net both name; the log lists what was copied, what is new and
    what was ignored. Raises WeightsError, which names all layers that do not fit; the net is then unchanged."""
    copy(match(graph, path))


def copy(plan: Plan) -> None:
    """Copy what match() found."""
    for blob, array, shape, what in plan:
        blob.load_array(array, shape, what)


def match(graph: Graph, path: str) -> Plan:
    """What load() copies, all of it read and checked. Nothing is changed yet."""
    stored, parts = read(path), is_hdf5(path)                    # HDF5 may hold some of a layer's blobs only
    plan: Plan = []
    wrong: list[str] = []
    table: list[tuple[str, str, str]] = []                       # (what became of it, layer, shapes)
    layers = graph.named_nodes
    params = {name: layer.blobs for name, layer in layers.items() if layer.blobs}
    for name, blobs in stored.items():
        layer = layers.get(name)
        if layer is None:
            log.info("Ignoring source layer %s", name)
            if blobs:
                table.append(("ignored", name, "not in this net"))
            continue
        if not blobs and not layer.blobs:
            continue
        table.append(("copied", name, ", ".join(_sizes(shape) for _, shape in blobs.values())))
        if not parts and not 0 <= len(layer.blobs) - len(blobs) <= layer.optional_blobs:
            wrong.append(f'layer "{name}" has {len(blobs)} blobs in the file and {len(layer.blobs)} in the net')
            continue
        for k, (array, shape) in blobs.items():
            what = f'blob {k} of layer "{name}"'
            if not 0 <= k < len(layer.blobs):
                wrong.append(f'layer "{name}" has a blob {k} in the file and {len(layer.blobs)} blobs in the net')
            elif not layer.blobs[k].fits(shape):
                wrong.append(f"{what} has the shape {shape} in the file and {layer.blobs[k].shape} in the net")
            else:
                plan.append((layer.blobs[k], array, shape, what))
    if wrong:                                                    # before any is touched
        raise WeightsError("\n  ".join([*wrong, "to train a layer anew, give that of the net another name"]), Position(path))
    if not any(row[0] == "copied" for row in table):
        raise WeightsError(f"no layer of this file has weights for this net\n  layers of the file: {' '.join(stored) or 'none'}"
                           f"\n  layers of the net: {' '.join(params)}", Position(path))
    table += [("new", name, ", ".join(_sizes(blob.shape) for blob in blobs))
              for name, blobs in params.items() if name not in stored]
    width = max(len(name) for _, name, _ in table)
    log.info("Weights from %s:%s", path, "".join(f"\n    {fate:8} {name:{width}}  {shapes}" for fate, name, shapes in table))
    return plan


def read(path: str) -> dict[str, dict[int, tuple[np.ndarray, tuple[int, ...]]]]:
    """{layer: {number: (values, shape)}} of a caffemodel, binary or HDF5. Raises WeightsError."""
    stored = _read_hdf5(path) if is_hdf5(path) else _read_binary(path)
    if not all(isinstance(name, str) for name in stored):        # protobuf and h5py give bytes where the file has no UTF-8
        raise WeightsError("this is no caffemodel, or a damaged one (the name of a layer is not UTF-8)", Position(path))
    return stored


def is_hdf5(path: str) -> bool:
    """Whether a file is HDF5: by its first bytes, whatever its name. The name decides for a file that begins as neither
    kind does: a damaged one."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(HDF5))
    except OSError:
        return path.endswith(".h5")
    return start == HDF5 or path.endswith(".h5") and not start.startswith(BINARY)


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _read_binary(path: str) -> dict[str, dict[int, tuple[np.ndarray, tuple[int, ...]]]]:
    stored, net = {}, read_weights(path)
    beside = beside_of(net, path)
    for layer in net.layer:
        try:
            stored[layer.name] = {k: (values_of(b, beside), shape_of(b)) for k, b in enumerate(layer.blobs)}
        except WeightsError as e:
            raise WeightsError(f'layer "{layer.name}": {e}', Position(path)) from None
    return stored


def _read_hdf5(path: str) -> dict[str, dict[int, tuple[np.ndarray, tuple[int, ...]]]]:
    import h5py
    try:
        with h5py.File(path, "r") as file:
            layers = {name: h5_members(group) for name, group in h5_members(file["data"]).items()}
            need, have = 4 * sum(prod(d.shape) for blobs in layers.values() for d in blobs.values()), available_memory()
            if have is not None and need > have:               # a few bytes of HDF5 can stand for any number of zeros
                raise WeightsError(f"these weights need {need / 2**30:.1f} GiB of memory, and {have / 2**30:.1f} GiB are available", Position(path))
            return {name: {int(k): (np.asarray(h5_array(d), np.float32), d.shape) for k, d in blobs.items()} for name, blobs in layers.items()}
    except WeightsError:
        raise
    except Exception as e:                                       # h5py raises nearly every exception there is on damaged files
        raise WeightsError(f"this is no HDF5 caffemodel, or only a part of one ({e})", Position(path)) from None



def save(net: pb.NetParameter, path: str | Path, graph: Graph) -> None:
    """Write a net with its weights, which `net` (of the same layers) does not hold yet, as a binary caffemodel; above 1
    GiB, large weights go to a file beside it, which Caffe does not read. Raises SnapshotError."""
    beside = Aside()
    for layer, node in zip(net.layer, graph.nodes):
        for blob in node.blobs:
            beside.add_blob(blob.value.plain(), layer.blobs.add())
    net.aside_sha256 = beside.write(path)
    log.info("the large arrays of %s are in %s: Caffe reads HDF5 of this size only", path, aside.path_of(path))
    write_whole(path, net.SerializeToString())


def has_aside(path: str) -> bool:
    """Whether large arrays of this caffemodel lie in a file beside it."""
    return not is_hdf5(path) and Path(aside.path_of(path)).exists() and read_weights(path).HasField("aside_sha256")


def save_hdf5(graph: Graph, path: str, with_diff: bool = False) -> None:
    """Owners of shared parameters are written, sharers are not (as in Caffe)."""
    def fill(file: Any) -> None:
        for part in ["data", "diff"] if with_diff else ["data"]:
            file.create_group(part)
        for layer in graph.nodes:
            for part, memory in (("data", "value"), ("diff", "gradient")):
                if part in file:
                    group = file[part].require_group(layer.name)
                    for k in layer.owns:
                        blob = layer.blobs[k]
                        group[str(k)] = getattr(blob, memory).plain()
    write_whole(path, h5_bytes(fill))


def share(graph: Graph, other: Graph) -> list[int]:
    """Let the net use the parameter blobs of `other`, layer by name. Returns the numbers of the layers that do: what
    they prepared for their own weights may not suit these."""
    theirs, sharing = other.named_nodes, []
    for i, layer in enumerate(graph.nodes):
        source = theirs.get(layer.name)
        if source is None or not layer.blobs:
            continue
        if [b.shape for b in layer.blobs] != [b.shape for b in source.blobs]:
            raise WeightsError(f'layer "{layer.name}" has parameters of the shapes {[b.shape for b in layer.blobs]} here and '
                               f"{[b.shape for b in source.blobs]} in the net that it should share them with")
        for mine, his in zip(layer.blobs, source.blobs):
            if mine.value.store.gpu != his.value.store.gpu:
                raise WeightsError(f'layer "{layer.name}" is on another device than the one that it should share parameters '
                                   "with\n  copy the weights instead: save(), and copy_from()")
            mine.value = his.value
            mine.users = (*mine.users, *(use for use in his.users if use not in mine.users))
        sharing.append(i)
    return sharing
