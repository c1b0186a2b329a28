"""Binary files: lenient where forks differ, strict where something is missing."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brew.proto import WeightsError, from_array, pb, read_binary, read_weights, shape_of, to_array


def model(path: str = "m.caffemodel") -> Path:
    net = pb.NetParameter(name="n")
    for name in ("a", "b"):
        layer = net.layer.add(name=name, type="InnerProduct", bottom=["x"], top=["y"])
        from_array(np.arange(12, dtype=np.float32).reshape(3, 4), layer.blobs.add())
    Path(path).write_bytes(net.SerializeToString())
    return Path(path)


def test_arrays_go_in_and_out() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    proto = from_array(x, diff=x + 1)
    assert shape_of(proto) == (2, 3, 4) and (to_array(proto) == x).all() and (to_array(proto, diff=True) == x + 1).all()
    scalar = from_array(np.float32(3).reshape(()))
    assert shape_of(scalar) == () and to_array(scalar) == 3


def test_files_from_before_shapes_have_four_axes() -> None:
    proto = pb.BlobProto(num=1, channels=1, height=2, width=2, double_data=[1, 2, 3, 4])
    assert to_array(proto).shape == (1, 1, 2, 2) and to_array(proto).ravel().tolist() == [1, 2, 3, 4]


def test_another_message_at_a_known_number_does_not_stop_weights() -> None:
    net = pb.NetParameter.FromString(model().read_bytes())
    layer = net.layer[0].SerializeToString()
    broken = layer + bytes([0xb2, 0x06, 3, 0x0a, 0xff, 0xff])             # number 102 (accuracy_param): no message at all
    data = b"".join(bytes([0xa2, 0x06]) + bytes([len(part)]) + part for part in (broken, layer))
    Path("fork.caffemodel").write_bytes(data)
    read = read_weights("fork.caffemodel")
    assert [(x.name, x.type, to_array(x.blobs[0]).sum()) for x in read.layer] == [("a", "InnerProduct", 66), ("a", "InnerProduct", 66)]


@pytest.mark.parametrize("cut", [1, 30, 70])
def test_a_cut_caffemodel_is_refused(cut: int) -> None:
    path = model()
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(WeightsError, match="m.caffemodel: this is no caffemodel, or only the beginning of one"):
        read_weights(path)


def test_other_files_are_refused() -> None:
    Path("x").write_bytes(b"\x89PNG\r\n\x1a\n and more")
    with pytest.raises(WeightsError, match="x: this is no caffemodel"):
        read_weights("x")
    with pytest.raises(WeightsError, match="nothing: cannot read this caffemodel: No such file or directory"):
        read_weights("nothing")
    with pytest.raises(WeightsError, match="x: this is no mean file"):
        read_binary("x", pb.BlobProto(), "mean file")
