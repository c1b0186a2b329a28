"""What forks of Caffe have: read with a warning, translated, or refused with the reason; by every reader alike."""
from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

import brew
from brew.engine.errors import NetError, WeightsError
from brew.proto import PrototxtError, forks, parse, pb, settle_forks, to_array, to_half, upgrade_net

MESSAGES = {name: message for name, message in pb.DESCRIPTOR.message_types_by_name.items() if any(map(forks.is_forks, message.fields))}
FIELDS = [(name, field) for name, message in sorted(MESSAGES.items()) for field in message.fields if forks.is_forks(field)]


def sample(field: Any) -> str:
    """A value of a field that is not its default, as prototxt."""
    if field.message_type is not None:
        return "{ }"
    if field.enum_type is not None:
        return str(next((v.name for v in field.enum_type.values if v.number != field.default_value), field.enum_type.values[0].name))
    if field.cpp_type in (field.CPPTYPE_STRING,):
        return '"other"'
    if field.cpp_type == field.CPPTYPE_BOOL:
        return "false" if field.default_value else "true"
    return "7"


def default(field: Any) -> str:
    value = field.default_value
    if isinstance(value, float):
        return f"{value:g}"                                    # as people write it
    return field.enum_type.values_by_number[value].name if field.enum_type is not None else f'"{value}"' if isinstance(value, str) else str(value).lower()


@pytest.mark.parametrize("message, field", FIELDS, ids=[f"{m}.{f.name}" for m, f in FIELDS])
def test_every_field_of_a_fork_has_one_fate_in_all_readers(message: str, field: Any, caplog: pytest.LogCaptureFixture) -> None:
    text, alias = f"{field.name} {'' if field.message_type else ':'} {sample(field)}", field.name in forks.ALIASES.get(message, {})
    reason = "" if alias else forks.REFUSED.get(message, {}).get(field.name, "")
    whole = text_format.Merge(text, getattr(pb, message)())                     # protobuf's own reader takes it
    read = getattr(pb, message)()
    for reader in (lambda: parse(text, read), lambda: settle_forks(whole)):
        caplog.clear()
        if reason:
            with pytest.raises(PrototxtError) as e:
                reader()
            assert field.name in str(e.value) and reason in str(e.value)
        else:
            with caplog.at_level(logging.WARNING, "brew"):
                reader()
            assert len(caplog.records) == 1 and field.name in caplog.text and ("read as" in caplog.text) == alias
    assert not [f for f, _ in whole.ListFields() if forks.is_forks(f)]
    if alias:
        assert read == whole
    if reason and field.message_type is None and not field.is_repeated:          # the value that changes nothing
        parse(f"{field.name}: {default(field)}", getattr(pb, message)())
        settle_forks(text_format.Merge(f"{field.name}: {default(field)}", getattr(pb, message)()))


@pytest.mark.parametrize("message", sorted(forks.REFUSED))
def test_what_is_refused_is_a_field_that_a_fork_has(message: str) -> None:
    fields = pb.DESCRIPTOR.message_types_by_name[message].fields_by_name
    for name in forks.REFUSED[message]:
        assert name not in fields or forks.is_forks(fields[name]), f"{message}.{name} is brew's own"
        assert name in fields or forks.knows(message, name)


@pytest.mark.parametrize("message, name", [
    ("SolverParameter", "larc_policy"), ("SolverParameter", "larc_warmup"), ("LayerParameter", "yolov4_param"), ("LayerParameter", "yolo_param"),
    ("TransformationParameter", "img_rand_resize_lower"), ("TransformationParameter", "img_rand_resize_step"), ("DataParameter", "cache"),
    ("DataParameter", "decoder_threads"), ("NetParameter", "eltwise_mem_sharing"), ("TransformationParameter", "random_resize_param"),
    ("NetParameter", "bn_stats_batch_size"), ("NetParameter", "multinode"), ("NetParameter", "default_forward_type")])
def test_families_are_passed_over(message: str, name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "brew"):
        parse(f"{name} {{ }}" if name.endswith("param") or name == "multinode" else f"{name}: 1", getattr(pb, message)())
    assert [r.getMessage().partition(": ")[2].partition(" (in")[0] for r in caplog.records] == [f"{name} is known from forks of Caffe only and is ignored"]


@pytest.mark.parametrize("name", sorted(set(forks.TYPES) - set(brew.LAYERS)))
def test_a_type_of_a_fork_is_called_that(name: str) -> None:
    net = parse(f'layer {{ name: "l" type: "{name}" bottom: "x" top: "y" pooling_param {{ torch_pooling: true }} }}', pb.NetParameter())
    net.layer.insert(0, parse('name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } }', pb.LayerParameter()))
    with pytest.raises(NetError, match="is known from .*, and is not built here") as e:
        brew.Net(net)
    assert "did you mean" not in str(e.value)


def test_types_of_forks_are_not_brews() -> None:
    assert not set(forks.TYPES) & set(brew.LAYERS)


@pytest.mark.parametrize("message, enum", [(m, f) for m, d in pb.DESCRIPTOR.message_types_by_name.items() for f in d.fields if f.enum_type is not None
                                           and any(v.number in forks.NUMBERS for v in f.enum_type.values)], ids=lambda x: getattr(x, "name", x))
def test_enum_values_of_forks(message: str, enum: Any, caplog: pytest.LogCaptureFixture) -> None:
    for value in enum.enum_type.values:
        if value.number not in forks.NUMBERS:
            continue
        made = text_format.Merge(f"{enum.name}: {value.name}", getattr(pb, message)())
        kept = forks.enum_value(getattr(pb, message)(), enum.name, value.name)
        for reader in (lambda made=made: settle_forks(made), lambda v=value: parse(f"{enum.name}: {v.name}", getattr(pb, message)())):
            if kept:
                reader()
            else:
                with pytest.raises(PrototxtError, match=value.name):
                    reader()
        assert enum.name not in {f.name for f, _ in made.ListFields()}


def test_nets_from_converters_take_what_files_take(caplog: pytest.LogCaptureFixture) -> None:
    net = text_format.Merge("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 5 dim: 5 } } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 2 kernel_size: 3 hole: 2 engine: MKL2017 } }
        layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 2 stride: 2 ceil_mode: false engine: MKLDNN } }""",
                            pb.NetParameter())
    with caplog.at_level(logging.WARNING, "brew"):
        made = brew.Net(net)
    assert made.blobs["c"].shape == (1, 2, 1, 1) and made.blobs["p"].shape == (1, 2, 2, 2)
    assert [r.getMessage() for r in caplog.records] == [f'layer "{layer}" has {what}' for layer, what in (
        ("c", "engine: MKL2017, which is known from forks of Caffe only: it is ignored"), ("c", "hole, which is known from forks of Caffe only: read as dilation"),
        ("p", "engine: MKLDNN, which is known from forks of Caffe only: it is ignored"),
        ("p", "ceil_mode, which is known from forks of Caffe only: read as round_mode"))]
    net.layer[1].convolution_param.relu = True
    with pytest.raises(PrototxtError, match='layer "c" has relu.*write that layer out'):
        brew.Net(net)
    del net.layer[1:]
    with pytest.raises(PrototxtError, match="stagelr.*multistep"):
        brew.get_solver(pb.SolverParameter(net_param=net, stagelr=[1.0]))


def test_a_message_given_twice_is_named() -> None:
    twice = "transform_param {\n resize_param { prob: 0.1 height: 6 }\n resize_param { prob: 0.1 height: 4 } }"
    with pytest.raises(PrototxtError, match='"resize_param" is given twice, and may be given once') as e:
        parse(twice, pb.LayerParameter(), "file")
    assert str(e.value).startswith("file:3:2") and "YOLO takes several; brew takes one" in str(e.value)
    assert parse("transform_param { scale: 2 } transform_param { mirror: true }", pb.LayerParameter()).transform_param.mirror
    with pytest.raises(PrototxtError, match='"scale" is given twice'):
        parse("transform_param { scale: 2 scale: 3 }", pb.LayerParameter())


def test_several_gpus_are_not_supported_yet() -> None:
    with pytest.raises(PrototxtError, match='"device_id" takes one value, and this is a list: several GPUs are not supported yet'):
        parse("device_id: [0, 1]", pb.SolverParameter())
    with pytest.raises(PrototxtError, match='"max_iter" takes one value, and this is a list'):
        parse("max_iter: [0, 1]", pb.SolverParameter())


# -------------------------------------------------------------------------------------------------------------- messages

@pytest.mark.parametrize("name", sorted(pb.DESCRIPTOR.message_types_by_name))
def test_messages_pickle(name: str) -> None:
    for kind in (getattr(pb, name), *(getattr(getattr(pb, name), n) for n in pb.DESCRIPTOR.message_types_by_name[name].nested_types_by_name)):
        assert pickle.loads(pickle.dumps(kind())) == kind()
    assert getattr(pb, name).__module__ == "brew.proto.brew_pb2"
    datum = pb.Datum(label=3, data=b"\0\1")
    assert pickle.loads(pickle.dumps(datum)) == datum


def test_an_unknown_field_names_the_message_that_lacks_it() -> None:
    with pytest.raises(text_format.ParseError, match='"brew.SaveOutputParameter" has no field named "directory"'):
        text_format.Merge('layer { detection_output_param { save_output_param { directory: "x" } } }', pb.NetParameter())


# --------------------------------------------------------------------------------------------- half-precision weights

@pytest.mark.parametrize("kind, dtype", [(pb.DOUBLE, "<f8"), (pb.FLOAT, "<f4"), (pb.FLOAT16, "<f2")])
def test_raw_data_is_read(kind: int, dtype: str) -> None:
    values = np.array([[1.5, -2, 0.1], [65504, 6e-8, 0]])
    blob = pb.BlobProto(raw_data_type=kind, raw_data=values.astype(dtype).tobytes(), raw_diff_type=kind, raw_diff=(values / 2).astype(dtype).tobytes())
    blob.shape.dim[:] = values.shape
    np.testing.assert_array_equal(to_array(blob), values.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(to_array(blob, diff=True), (values / 2).astype(dtype).astype(np.float32))


@pytest.mark.parametrize("more, message", [
    (dict(raw_data_type=pb.INT, raw_data=bytes(8)), "raw_data of the type INT"), (dict(raw_data=bytes(8)), "raw_data of the type unknown"),
    (dict(raw_data_type=pb.FLOAT16, raw_data=bytes(3)), "3 bytes of raw_data"), (dict(raw_data_type=pb.FLOAT16, raw_data=bytes(6)), "has 3 values")])
def test_raw_data_that_is_no_array(more: dict[str, Any], message: str) -> None:
    blob = pb.BlobProto(**more)
    blob.shape.dim[:] = [2]
    with pytest.raises(WeightsError, match=message):
        to_array(blob)


def test_half_precision_is_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from brew.tools.cli import main
    monkeypatch.chdir(tmp_path)
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 30 } } }
              layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 50 weight_filler { type: "xavier" } } }"""
    Path("net.prototxt").write_text(text)
    net = brew.Net("net.prototxt", seed=1)
    net.save("w.caffemodel")
    assert main(["surgery", "cast-half", "-weights", "w.caffemodel", "-out_weights", "half.caffemodel"]) == 0
    assert Path("half.caffemodel").stat().st_size < 0.55 * Path("w.caffemodel").stat().st_size
    other = brew.Net("net.prototxt", weights="half.caffemodel")
    for mine, theirs in zip(net.params["ip"], other.params["ip"]):
        np.testing.assert_array_equal(theirs.data, mine.data.astype(np.float16).astype(np.float32))
    stored = pb.NetParameter.FromString(Path("half.caffemodel").read_bytes())
    assert stored.layer[0].blobs[0].raw_data_type == pb.FLOAT16 and not stored.layer[0].blobs[0].data
    net.params["ip"][0].data[0, 0] = 1e5
    net.save("w.caffemodel")
    assert main(["surgery", "cast-half", "-weights", "w.caffemodel", "-out_weights", "big.caffemodel"]) == 1
    assert 'layer "ip": a value of 100000 is too large for half precision' in capsys.readouterr().err and not Path("big.caffemodel").exists()


@pytest.mark.oracle
def test_a_published_model_in_half_precision(shared: Path) -> None:
    net = brew.Net(shared / "faults/fp16.prototxt", brew.TEST, weights=shared / "faults/fp16.caffemodel")
    stored = pb.NetParameter.FromString((shared / "faults/fp16.caffemodel").read_bytes())
    for layer in upgrade_net(stored).layer:
        for blob, mine in zip(layer.blobs, net.params.get(layer.name, ())):
            halves = np.frombuffer(blob.raw_data, np.float16)
            np.testing.assert_array_equal(mine.data.ravel(), halves.astype(np.float32))
            assert halves.size and np.abs(halves.astype(np.float32)).max() > 0


def test_half_of_infinities_and_of_nothing() -> None:
    np.testing.assert_array_equal(to_array(to_half(np.array([np.inf, -np.inf, np.nan, 1]))), [np.inf, -np.inf, np.nan, 1])
    assert to_array(to_half(np.zeros((0, 3)))).shape == (0, 3)
