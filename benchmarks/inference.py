"""Inference of brew beside PyTorch, ONNX Runtime and OpenVINO on the same cores: TEST phase, random images, no input pipeline.

    pip install '.[bench]' && python benchmarks/inference.py [--rounds 15] [--threads 2] [--batch 1 8] [resnet50 ...]

brew runs models/NAME/deploy.prototxt. The torch side is made from it, with BatchNorm folded by torch.fx; ONNX Runtime and
OpenVINO run what torch exports. Before anything is timed, the results must agree.
"""
from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from datetime import date

import numpy as np
import onnxruntime
import openvino
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch_net import Deployed
from train_step import MODELS, NETS, measure, processor

import brew
from brew.proto import pb, read_net


def deploy_net(name: str, batch: int) -> tuple[pb.NetParameter, tuple[int, ...]]:
    """models/NAME/deploy.prototxt for a batch of this size, and its input's shape."""
    net = read_net(MODELS / name / "deploy.prototxt")
    shape = net.layer[0].input_param.shape[0]
    shape.dim[0] = batch
    return net, tuple(shape.dim)


def copy_weights(net: brew.Net, model: Deployed) -> None:
    """Give the torch model brew's weights and statistics."""
    for name, module in model.made.items():
        given = [torch.from_numpy(blob.data.copy()) for blob in net.params[name]]
        if net.layer_dict[name].type == "BatchNorm":
            targets, given = [module.running_mean, module.running_var], [g / given[2] for g in given[:2]]
        else:
            targets = list(module.parameters())
        for target, values in zip(targets, given, strict=True):
            target.data.copy_(values.reshape(target.shape))        # type: ignore[union-attr]


def runners(name: str, batch: int, threads: int) -> dict[str, Callable[[], object]]:
    """name -> one inference, each of the same net with the same weights on the same images."""
    param, shape = deploy_net(name, batch)
    net = brew.Net(param, brew.TEST, seed=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    for layer in net.nodes:
        if layer.type == "BatchNorm":                              # statistics such as training would leave
            for blob, values in zip(layer.blobs, (rng.uniform(-0.1, 0.1, layer.blobs[0].shape), rng.uniform(0.5, 1.5, layer.blobs[0].shape), 1.0)):
                blob.data[...] = values
    net.blobs["data"].data[...] = x
    model = Deployed(param, shape).eval()
    copy_weights(net, model)
    images = torch.from_numpy(x)
    with torch.no_grad():
        folded = fuse(torch.fx.symbolic_trace(model))
        last = fuse(torch.fx.symbolic_trace(model)).to(memory_format=torch.channels_last)
        images_last = images.contiguous(memory_format=torch.channels_last)
        file = io.BytesIO()
        torch.onnx.export(model, (images,), file, dynamo=False, input_names=["data"], output_names=["prob"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    compiled = openvino.Core().compile_model(openvino.Core().read_model(file.getvalue()), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()

    def torch_run(m: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return m(images)                                       # type: ignore[no-any-return]
    runs: dict[str, Callable[[], object]] = {
        "brew": lambda: net.run_forward(), "eager": lambda: torch_run(folded, images), "last": lambda: torch_run(last, images_last),
        "onnxruntime": lambda: session.run(None, {"data": x})[0], "openvino": lambda: request.infer({"data": x}, share_inputs=True)[0]}
    net.run_forward()
    expected = net.output_values()["prob"]
    for other in ("eager", "last", "onnxruntime", "openvino"):
        found = np.asarray(runs[other]()).ravel()
        if not np.allclose(found, expected, rtol=1e-2, atol=1e-4 * expected.max()):
            raise SystemExit(f"{name}: {other} gives other results than brew (by {abs(found - expected).max():.1e}, the largest being {expected.max():.1e})")
    return runs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=["resnet50"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    brew.set_threads(args.threads)
    print(f"{processor()}, {args.threads} threads, torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino.__version__.split('-')[0]}, "
          f"brew {brew.__version__}, {date.today()}; ms, medians of {args.rounds} rounds\n")
    print("| net, batch | brew | torch eager | torch channels_last | ONNX Runtime | OpenVINO | best of torch / brew | brew / best of all |\n" + "| --- " * 8 + "|")
    for name in args.nets if args.nets != ["all"] else NETS:
        for batch in args.batch:
            ms = measure(runners(name, batch, args.threads), args.rounds, 3)
            cells = " | ".join(f"{ms[k]:.2f}" for k in ("brew", "eager", "last", "onnxruntime", "openvino"))
            print(f"| {name} {batch} | {cells} | {min(ms['eager'], ms['last']) / ms['brew']:.2f} | {ms['brew'] / min(ms.values()):.2f} |", flush=True)


if __name__ == "__main__":
    main()
