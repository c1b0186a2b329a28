"""Parameters that several layers have in common: those with the same name in their ParamSpecs."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..proto import brew_pb2 as pb
from .blob import Blob, BlobVec
from .layer import Layer


@dataclass
class Parameter:
    """A learnable parameter: the layer that owns it, and its rates."""

    layer: str
    index: int
    blob: Blob
    lr_mult: float
    decay_mult: float
    measured: bool = False               # forward itself changes it: a statistic of the data
    readers: int = 1                     # how many layers' parameters it is

    @property
    def sparse(self) -> bool:
        """Whether its gradient is row-sparse."""
        return self.blob.sparse is not None


def share_parameters(layers: Sequence[Layer], names: Sequence[str]) -> list[Parameter]:
    """Let later layers use the blobs of the first one with the same parameter name; returns the owners' parameters.

    Raises NetError if shapes (STRICT) or counts (PERMISSIVE, of the later layer) differ, if both give another rate, or
    if only one has row-sparse gradients.
    """
    owned: list[Parameter] = []
    by_name: dict[str, tuple[Parameter, pb.ParamSpec]] = {}
    for layer, name in zip(layers, names):
        blobs = list(layer.blobs)
        for k, (blob, spec) in enumerate(zip(layer.blobs, layer.param_specs)):
            if spec.name not in by_name or not spec.name:
                owned.append(Parameter(name, k, blob, spec.lr_mult, spec.decay_mult, k in layer.statistics))
                layer.owns = [*layer.owns, k]
                if spec.name:
                    by_name[spec.name] = (owned[-1], spec)
                continue
            owner, first = by_name[spec.name]
            owner.measured = owner.measured or k in layer.statistics
            owner.readers += 1
            layer.require((blob.sparse is not None) == owner.sparse, f'shares "{spec.name}" with layer "{owner.layer}", and '
                          "only one of the two has row-sparse gradients\n  sparse_gradient must be the same for both", "param")
            if spec.share_mode == pb.ParamSpec.PERMISSIVE:
                layer.require(blob.count == owner.blob.count, f'shares "{spec.name}" with layer "{owner.layer}", which has {owner.blob.count} values; it needs {blob.count}', "param")
            else:
                layer.require(blob.shape == owner.blob.shape, f'shares "{spec.name}" with layer "{owner.layer}", whose shape is {owner.blob.shape}; it needs {blob.shape}'
                              "\n  share_mode: PERMISSIVE asks for an equal count only", "param")
            for rate in ("lr_mult", "decay_mult"):
                if spec.HasField(rate):
                    layer.require(not first.HasField(rate) or getattr(first, rate) == getattr(spec, rate),
                                  f'shares "{spec.name}" with layer "{owner.layer}" and gives another {rate}', "param")
                    setattr(owner, rate, getattr(spec, rate))
            same = type(blob.value) is type(owner.blob.value) and (blob.shape == owner.blob.shape or not owner.sparse)
            layer.require(same, f'shares "{spec.name}" with layer "{owner.layer}", which keeps it in another order',
                          "param")
            if blob.shape == owner.blob.shape:
                blobs[k] = owner.blob
            else:
                blob.share_value(owner.blob)
                blob.share_gradient(owner.blob)
        layer.blobs = BlobVec(blobs)
    return owned
