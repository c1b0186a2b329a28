"""Values that a layer in place overwrites although the backward pass of an earlier layer needs them: a copy is kept.

A Sigmoid computes its gradient from its result. A BatchNorm that then runs in place replaces that result, and the gradient,
computed from what is there, is wrong (in Caffe it is). The net finds such pairs when it is built.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .blob import Blob
from .layer import Layer


@dataclass(frozen=True)
class Rewrite:
    """Layer number `by` overwrites `blob`, whose present values the backward pass of layer number `reader` needs. `kept` stands
    for the blob there: it has a copy of the values, and the blob's own gradient."""

    reader: int
    by: int
    blob: Blob
    kept: Blob

    def keep(self) -> None:
        """Copy the values, in the layout they have. To be called before layer `by` runs."""
        source, copy = self.blob.value, self.kept
        if copy.shape != self.blob.shape:
            copy.reshape(*self.blob.shape)
        copy.gradient = self.blob.gradient
        layout = source.layout
        copy.value.write(layout)[...] = source.read(layout)


def find_rewrites(layers: Sequence[Layer], bottoms: Sequence[list[Blob]], tops: Sequence[list[Blob]], runs: Sequence[bool]) -> list[Rewrite]:
    """The copies to be kept, for the layers that run backward (`runs`). Layers of which one needs only signs and the other
    leaves those as they are, such as ReLU and Dropout, need no copy."""
    writers: dict[int, list[int]] = {}                          # store -> layers that write it in place, in order
    for k, (below, above) in enumerate(zip(bottoms, tops)):
        for blob in above:
            if any(blob is other for other in below):
                writers.setdefault(id(blob.value.store), []).append(k)
    found: list[Rewrite] = []
    for i, layer in enumerate(layers):
        if not runs[i] or not writers:
            continue
        for blob in {id(b): b for b in layer.backward_reads(bottoms[i], tops[i])}.values():
            harmful = (k for k in writers.get(id(blob.value.store), ()) if k > i and not (layer.needs_sign and layers[k].keeps_sign))
            by = next(harmful, None)
            if by is not None:
                found.append(Rewrite(i, by, blob, Blob(blob.shape)))
    return found


def check_rewrites(layers: Sequence[Layer], bottoms: Sequence[list[Blob]], tops: Sequence[list[Blob]]) -> None:
    """Raise NetError if a layer in place overwrites what a later layer reads by another name: Split, Flatten, Reshape and
    Parameter give blobs that share their memory. (passes.insert_splits refuses the same of one name.)"""
    parameters = {id(blob.value.store) for layer in layers for blob in layer.blobs}
    version: dict[int, int] = {}                                # store -> how often it was overwritten so far
    last: dict[int, int] = {}                                   # store -> the layer that did it last
    seen: dict[int, int] = {}                                   # blob -> the version of its store that it stands for
    for k, layer in enumerate(layers):
        for j, blob in enumerate(bottoms[k]):
            store = id(blob.value.store)
            if layer.reads_values and seen.get(id(blob), 0) != version.get(store, 0):
                writer = layers[last[store]]
                writer.require(False, f'rewrites in place what layer "{layer.name}" reads after it as "{layer.param.bottom[j]}": '
                               "both blobs share their memory\n  give the top another name", "top")
        for i, blob in enumerate(tops[k]):
            store = id(blob.value.store)
            if any(blob is other for other in bottoms[k]):
                layer.require(store not in parameters, "rewrites in place a blob that shares the memory of a parameter"
                              "\n  give the top another name", f"top[{i}]")
                version[store] = version.get(store, 0) + 1
                last[store] = k
                seen[id(blob)] = version[store]
            else:
                seen[id(blob)] = max((seen.get(id(b), 0) for b in bottoms[k] if b.value.store is blob.value.store), default=0)


def with_copies(blobs: list[Blob], rewrites: Sequence[Rewrite], readers: Sequence[int]) -> list[Blob]:
    """`blobs` as the backward passes of these layers must see them: with the copies kept for them."""
    kept = {id(r.blob): r.kept for r in rewrites if r.reader in readers}
    return [kept.get(id(blob), blob) for blob in blobs] if kept else blobs
