"""Graph: a net as it was built. The building passes return it, and plan, runs, weights and tools read it."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from .blob import Blob
from .layer import Layer
from .rewrites import Rewrite
from .sharing import Parameter


@dataclass(frozen=True)
class Graph:
    """Layers in the order in which they run, and the blobs between them. It does not change; shapes and values do.

    The first eight sequences have an entry for each layer; blobs are numbered in the order in which they are made.
    """

    nodes: Sequence[Layer]
    names: Sequence[str]
    bottom_ids: Sequence[list[int]]          # the numbers of its bottoms; a layer in place has the same number in both
    top_ids: Sequence[list[int]]
    bottoms: Sequence[list[Blob]]
    tops: Sequence[list[Blob]]
    runs: Sequence[bool]                     # whether it runs backward
    down: Sequence[list[bool]]               # for each bottom, whether its gradient is wanted
    splits: frozenset[int]                   # the numbers of layers that were not declared, but inserted
    blobs: Sequence[Blob]
    blob_names: Sequence[str]
    rewrites: Sequence[Rewrite]              # values that are overwritten in place and must be kept for backward
    parameters: list[Parameter]              # what can be learned, each once, however many layers share it
    # layers that want to see blobs after each forward, and these by name
    observers: Sequence[tuple[Layer, dict[str, Blob]]]
    inputs: list[str]
    outputs: list[str]                       # blobs that no layer reads
    memory: int                              # bytes of all tops, as Caffe counts them

    @property
    def observed(self) -> list[Blob]:
        """What layers want to see after each forward pass: plans keep its values."""
        return [blob for _, blobs in self.observers for blob in blobs.values()]

    @property
    def named_nodes(self) -> OrderedDict[str, Layer]:
        """{name: layer}."""
        return OrderedDict(zip(self.names, self.nodes))

    @property
    def named_blobs(self) -> OrderedDict[str, Blob]:
        """{name: blob}, in the order in which layers make them."""
        return OrderedDict(zip(self.blob_names, self.blobs))

    def top_names(self, i: int) -> list[str]:
        """What layer number i makes."""
        return [self.blob_names[b] for b in self.top_ids[i]]

    def bottom_names(self, i: int) -> list[str]:
        """What layer number i reads."""
        return [self.blob_names[b] for b in self.bottom_ids[i]]

    def parameter_name(self, i: int, k: int) -> str:
        """What logs call parameter k of layer i: its own name, or its number."""
        return self.nodes[i].param_specs[k].name or str(k)

    def last_uses(self) -> list[int]:
        """For each of `parameters`, the number of the first layer that has it: the last to add to its gradient."""
        def key(blob: Blob) -> int:
            return id(blob.gradient.store if blob.sparse is None else blob.gradient)
        first = {key(blob): i for i in reversed(range(len(self.nodes))) for blob in self.nodes[i].blobs}
        return [first[key(p.blob)] for p in self.parameters]
