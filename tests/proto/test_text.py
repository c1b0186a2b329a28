"""Reading prototxt: values, aliases of forks, and errors that say where and what instead."""
from __future__ import annotations

import logging
import math

import pytest
from google.protobuf import text_format

from brew.proto import PrototxtError, parse, pb, to_text
from brew.proto.text import parse_file


def error(text: str, message: object = None) -> str:
    with pytest.raises(PrototxtError) as e:
        parse(text, message or pb.NetParameter(), "net.prototxt")  # type: ignore[arg-type, type-var]
    return str(e.value)


def test_reads_what_protobuf_reads() -> None:
    text = r"""
    name: 'one' "two" # a comment
    force_backward: true; layer < name: "l\n\x41\101\"" type: "Pooling" loss_weight: [1, 2.5e-1, .5f, -inf] , pooling_param { pool: AVE kernel_size: 0x10 stride: 010 } >
    layer: { name: "m" bottom: "a" bottom: "b" blobs { data: [1, -2] shape { dim: 2 } } dropout_param { dropout_ratio: nan } include { phase: 1 } }
    """
    ours, theirs = parse(text, pb.NetParameter()), pb.NetParameter()
    for layer in ours.layer:
        layer.ClearField("position")
    text_format.Parse(text, theirs)
    assert math.isnan(ours.layer[1].dropout_param.dropout_ratio)
    for net in (ours, theirs):
        net.layer[1].ClearField("dropout_param")
    assert ours == theirs


def test_what_is_written_is_read_again() -> None:
    net = parse('name: "x" layer { name: "l" type: "ReLU" bottom: "a" top: "a" relu_param { negative_slope: 0.1 } }', pb.NetParameter(), "f")
    again = parse(to_text(net), pb.NetParameter(), "f")
    for layer in (*net.layer, *again.layer):
        layer.ClearField("position")
    assert again == net and "position" not in to_text(net)


def test_layers_know_where_they_stand() -> None:
    net = parse('name: "x"\n\n  layer { name: "a" }\nlayer {\n name: "b" }', pb.NetParameter(), "some/net.prototxt")
    assert [(p.file, p.line, p.column) for p in (layer.position for layer in net.layer)] == [("some/net.prototxt", 3, 3), ("some/net.prototxt", 4, 1)]


def test_a_misspelt_field() -> None:
    text = 'layer {\n  name: "pool1"\n  type: "Pooling"\n  pooling_param {\n    kernal_size: 2\n  }\n}\n'
    assert error(text) == """net.prototxt:5:5: PoolingParameter has no field "kernal_size"
    5 |     kernal_size: 2
      |     ^^^^^^^^^^^
  in layer "pool1" (type "Pooling"), pooling_param
  did you mean "kernel_size"?"""


def test_a_wrong_enum() -> None:
    assert error('layer { name: "p" pooling_param { pool: MAXX } }') == """net.prototxt:1:41: "pool" has no value MAXX
    1 | layer { name: "p" pooling_param { pool: MAXX } }
      |                                         ^^^^
  in layer "p", pooling_param
  it can be MAX, AVE, STOCHASTIC
  did you mean "MAX"?"""


@pytest.mark.parametrize("text, rule", [
    ('name: "a" name: "b"', '1:11: "name" is given twice, and may be given once'),
    ("name: x", '1:7: "name" is a string and needs quotes: "x"'),
    ('layer { name: "l" loss_weight: much }', '1:32: "loss_weight" is a number, found much'),
    ("layer { convolution_param { num_output: 1.5 } }", '1:41: "num_output" is a whole number, found 1.5'),
    ("layer { convolution_param { num_output: -1 } }", '1:41: "num_output" must lie between 0 and 4294967295, found -1'),
    ("force_backward: yes", '1:17: "force_backward" is true or false, found yes'),
    ("layer { name: \"l\"", 'the file ends, and a "}" is missing'),
    ("layer 5", '1:7: "layer" is a message: expected "{", found \'5\''),
    ("name 5", '1:6: expected ":" after "name", found \'5\''),
    ('name: "abc', "a string that does not end on its line has no place here"),
    ("name: ${X}", "the character '$' has no place here"),
    ('item { name: "x" }', "this is a label map (class names for SSD's tools), not a net")])
def test_errors_name_the_place_and_the_rule(text: str, rule: str) -> None:
    assert rule in error(text)


def test_what_can_be_stepped_over_is_collected(tmp_path: object) -> None:
    errors: list[PrototxtError] = []
    parse('layer { name: "a" foo: 1 bar { x: "}" } }\nbaz: [1, 2]\nname: "n"', net := pb.NetParameter(), "f", errors)
    assert [str(e).split("\n")[0] for e in errors] == ['f:1:19: LayerParameter has no field "foo"', 'f:1:26: LayerParameter has no field "bar"', 'f:2:1: NetParameter has no field "baz"']
    assert net.name == "n"


def test_a_binary_file_is_no_prototxt(working_directory: object) -> None:
    with open("x.caffemodel", "wb") as file:
        file.write(b"\x0a\x05\x00\xff\xfe")
    with pytest.raises(PrototxtError, match="x.caffemodel: this is no text file; a prototxt was expected"):
        parse_file("x.caffemodel", pb.NetParameter())


@pytest.mark.parametrize("text, check", [
    ("pooling_param { ceil_mode: false }", lambda p: p.pooling_param.round_mode == pb.PoolingParameter.FLOOR),
    ("pooling_param { ceil_mode: true }", lambda p: p.pooling_param.round_mode == pb.PoolingParameter.CEIL),
    ("convolution_param { hole: 4 }", lambda p: list(p.convolution_param.dilation) == [4]),
    ("convolution_param { hole_w: 3 }", lambda p: list(p.convolution_param.dilation) == [1, 3]),
    ("convolution_param { engine: MKL2017 }", lambda p: p.convolution_param.engine == 0),
    ("center_loss_param { num_output: 7 }", lambda p: True)])
def test_fields_of_forks_are_read_with_one_warning(text: str, check: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "brew"):
        net = parse(f'layer {{ name: "l" type: "T" {text} }}', pb.NetParameter(), "f.prototxt")
    assert check(net.layer[0])  # type: ignore[operator]
    assert len(caplog.records) == 1 and "f.prototxt:1:" in caplog.text and 'layer "l" (type "T")' in caplog.text


@pytest.mark.parametrize("text, value", [("dropout_param { scale_train: false }", ("dropout_param", "scale_train", False)),
                                         ("loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }", ("loss_param", "pre_fixed_normalizer", 128.0))])
def test_fields_of_forks_that_brew_has_need_no_warning(text: str, value: tuple[str, str, object], caplog: pytest.LogCaptureFixture) -> None:
    net = parse(f"layer {{ {text} }}", pb.NetParameter())
    assert getattr(getattr(net.layer[0], value[0]), value[1]) == value[2] and not caplog.records


def test_a_v1_type_that_only_forks_have_keeps_its_name() -> None:
    from brew.proto import upgrade_net
    net = upgrade_net(parse('layers { name: "l" type: INTERP bottom: "a" top: "b" }', pb.NetParameter()))
    assert net.layer[0].type == "Interp"
