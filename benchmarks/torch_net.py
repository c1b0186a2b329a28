"""The same net in PyTorch, as its best user would write it: from the prototxt's layers to nn modules."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from brew.proto import pb


class TorchNet(nn.Module):
    """A net's layers one after the other; forward(images, labels) gives the loss. BatchNorm and the Scale behind it are one
    BatchNorm2d, and what is in place in the prototxt is in place here."""

    def __init__(self, net: pb.NetParameter, shape: tuple[int, ...]):
        super().__init__()
        self.steps: list[tuple[Callable[..., torch.Tensor], list[str], str]] = []
        self.losses: list[tuple[str, float, float]] = []
        self.parts = nn.ModuleList()
        channels = {"data": shape}                         # the shape of every blob, found by running it once
        values: dict[str, Any] = {"data": torch.zeros(shape)}
        self.made: dict[str, nn.Module] = {}               # layer -> the module that has its parameters
        after_norm: dict[str, nn.Module] = {}
        for layer in net.layer:
            if layer.type == "Scale" and layer.bottom[0] in after_norm:
                self.made[layer.name] = after_norm[layer.bottom[0]]
            if layer.type in ("Data", "Input", "Accuracy", "Scale"):
                continue
            if layer.type == "SoftmaxWithLoss":
                self.losses.append((layer.bottom[0], layer.loss_weight[0] if layer.loss_weight else 1.0, layer.loss_param.label_smoothing))
                continue
            step = self.step(layer, [channels[b] for b in layer.bottom])
            if isinstance(step, nn.Module):
                self.parts.append(step)
                if any(True for _ in step.parameters()):
                    self.made[layer.name] = step
            if isinstance(step, nn.BatchNorm2d):
                after_norm[layer.top[0]] = step
            self.steps.append((step, list(layer.bottom), layer.top[0]))
            with torch.no_grad():
                values[layer.top[0]] = step(*(values[b] for b in layer.bottom))
            channels[layer.top[0]] = tuple(values[layer.top[0]].shape)

    def step(self, layer: pb.LayerParameter, shapes: list[tuple[int, ...]]) -> Callable[..., torch.Tensor]:
        channels = shapes[0][1]
        if layer.type == "Convolution":
            c = layer.convolution_param
            kernel, stride, pad, dilation = (axes(c, *names) for names in (("kernel_size", "kernel", 1), ("stride", "stride", 1), ("pad", "pad", 0), ("dilation", "", 1)))
            return nn.Conv2d(channels, c.num_output, kernel, stride, pad, dilation, c.group, c.bias_term)
        if layer.type == "SeparableConvolution":
            s = layer.separable_convolution_param
            return nn.Sequential(nn.Conv2d(channels, channels, s.kernel_size[0], next(iter(s.stride), 1), next(iter(s.pad), 0), groups=channels, bias=False),
                                 nn.Conv2d(channels, s.num_output, 1, bias=s.bias_term))
        if layer.type == "InnerProduct":
            size = 1
            for d in shapes[0][1:]:
                size *= d
            return nn.Sequential(nn.Flatten(), nn.Linear(size, layer.inner_product_param.num_output))
        if layer.type == "BatchNorm":
            return nn.BatchNorm2d(channels, layer.batch_norm_param.eps)
        if layer.type == "ReLU":
            return nn.ReLU(inplace=layer.bottom[0] == layer.top[0])
        if layer.type == "Dropout":
            return nn.Dropout(layer.dropout_param.dropout_ratio)      # torch needs what it would write over
        if layer.type == "LRN":
            return nn.LocalResponseNorm(layer.lrn_param.local_size, layer.lrn_param.alpha, layer.lrn_param.beta)
        if layer.type == "Pooling":
            p = layer.pooling_param
            if p.global_pooling:
                return nn.AdaptiveAvgPool2d(1)
            kind = nn.MaxPool2d if p.pool == p.MAX else nn.AvgPool2d
            return kind(p.kernel_size, p.stride, p.pad, ceil_mode=True)
        if layer.type == "Concat":
            return lambda *xs: torch.cat(xs, 1)
        if layer.type == "Softmax":
            return nn.Softmax(1)
        if layer.type == "Eltwise":
            return lambda a, b: a + b
        raise ValueError(f"no module for layer {layer.name} of type {layer.type}")

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        values = self.run(images)
        total: Any = 0
        for blob, weight, smoothing in self.losses:
            total = total + weight * nn.functional.cross_entropy(values[blob].flatten(1), labels, label_smoothing=smoothing)
        return total  # type: ignore[no-any-return]

    def run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {"data": images}
        for step, bottoms, top in self.steps:
            values[top] = step(*(values[b] for b in bottoms))
        return values


class Deployed(TorchNet):
    """The net as it is used: forward(images) gives the top of the last layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.run(images)[self.steps[-1][2]]


def axes(message: Any, field: str, prefix: str, default: int) -> tuple[int, int]:
    """(height, width) of a ConvolutionParameter's field, or of its _h and _w forms."""
    values = list(getattr(message, field))
    if prefix and (message.HasField(f"{prefix}_h") or message.HasField(f"{prefix}_w")):
        return getattr(message, f"{prefix}_h"), getattr(message, f"{prefix}_w")
    return (values[0], values[-1]) if values else (default, default)
