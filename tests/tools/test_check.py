"""What brew check says, in which phases, and that it says the cause and not its consequences."""
from __future__ import annotations

from pathlib import Path

import pytest

import brew
from brew.engine.errors import NetError
from brew.tools.check import check_net_file
from brew.tools.cli import main

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 40 dim: 40 } } }\n'
DUMMY = 'layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } %s }\n'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" %s }\n'


def checked(text: str, *flags: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    Path("net.prototxt").write_text(text)
    code = main(["check", "-model", "net.prototxt", *flags])
    shown = capsys.readouterr()
    return code, [line for line in (shown.err + shown.out).splitlines() if not line.startswith("net.prototxt: ")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text, flags, problems", [
    (INPUT + 'layer { name: "a" type: "ReLU" bottom: "data" top: "a" include { phase: TEST } }\n'
     'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }', [], 0),                                      # without data: TEST
    (INPUT + 'layer { name: "a" type: "ReLU" bottom: "data" top: "a" include { phase: TEST } }\n'
     'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }', ["-phase", "TRAIN"], 1),
    (INPUT + 'layer { name: "a" type: "ReLU" bottom: "data" top: "a" include { phase: TEST } }\n'
     'layer { name: "b" type: "ReLU" bottom: "a" top: "b" }', ["-phase=BOTH"], 1),
    (DUMMY % "" + LOSS % 'include { phase: TRAIN }' + 'layer { name: "c" type: "ReLU" bottom: "loss" top: "c" }', [], 1),       # with data: both
    (DUMMY % "" + LOSS % 'include { phase: TRAIN }' + 'layer { name: "c" type: "ReLU" bottom: "loss" top: "c" }', ["-phase", "TRAIN"], 0),
    (DUMMY % "include { phase: TEST }" + LOSS % "", [], 0),                                                # data in TEST only
])
def test_the_phases_that_a_net_is_meant_for(text: str, flags: list[str], problems: int, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = checked(text, *flags, capsys=capsys)
    assert len([line for line in found if line.startswith("net.prototxt:") and "warning" not in line]) == problems and code == bool(problems), found


@pytest.mark.parametrize("bad, message", [
    ('type: "InnerProduct" inner_product_param { num_outputs: 3 }', 'no field "num_outputs"'),             # not: num_output must be given
    ('type: "InnerProduct" inner_product_param { }', "num_output must be given"),
    ('type: "InnerProdct" inner_product_param { num_output: 3 }', 'no layer type is called "InnerProdct"'),
    ('type: "Pooling" pooling_param { kernel_size: 3 }', "pools images"),
    ('type: "Correlation"', "known from FlowNet2"),
])
def test_a_layer_that_fails_leaves_its_tops_unknown(bad: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = DUMMY % "" + f'layer {{ name: "bad" bottom: "data" top: "bad" {bad} }}\n'
    text += 'layer { name: "after" type: "Eltwise" bottom: "bad" bottom: "data" top: "after" }\n'
    text += 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "after" bottom: "label" top: "loss" }\n'
    code, found = checked(text, capsys=capsys)
    told = [line for line in found if line.startswith("net.prototxt:")]
    assert code == 1 and len(told) == 1 and message in "\n".join(found), found


def test_a_blob_that_a_rule_leaves_out_is_named() -> None:
    text = DUMMY % "" + 'layer { name: "drop" type: "ReLU" bottom: "data" top: "y" include { phase: TRAIN stage: "big" } }\n' \
        'layer { name: "out" type: "ReLU" bottom: "y" top: "z" }\n'
    Path("net.prototxt").write_text(text)
    wanted = 'layer "drop" makes it, and is left out here: include { phase: TRAIN stage: "big" }'
    with pytest.raises(NetError) as e:
        brew.Net("net.prototxt", brew.TEST)
    problems, _ = check_net_file("net.prototxt")
    assert wanted in str(e.value) and wanted in problems[0] and "blobs made so far" not in str(e.value)
    excluded = text.replace("include { phase: TRAIN", "exclude { phase: TEST")
    Path("net.prototxt").write_text(excluded)
    with pytest.raises(NetError, match='exclude { phase: TEST stage: "big" }'):
        brew.Net("net.prototxt", brew.TEST, stages=["big"])
    with pytest.raises(NetError, match="blobs made so far: data, label"):
        Path("net.prototxt").write_text(DUMMY % "" + 'layer { name: "out" type: "ReLU" bottom: "y" top: "z" }\n')
        brew.Net("net.prototxt", brew.TEST)


def test_in_place_on_a_blob_with_a_loss_weight_names_it() -> None:
    Path("net.prototxt").write_text(DUMMY % "" + 'layer { name: "sum" type: "Reduction" bottom: "data" top: "s" loss_weight: 0.5 }\n'
                                    'layer { name: "relu" type: "ReLU" bottom: "s" top: "s" }\n')
    with pytest.raises(NetError, match='in place, which the loss counts with loss_weight 0.5 of layer "sum"'):
        brew.Net("net.prototxt", brew.TRAIN)
    Path("net.prototxt").write_text(DUMMY % "" + 'layer { name: "a" type: "ReLU" bottom: "data" top: "data" }\n'
                                    'layer { name: "b" type: "Flatten" bottom: "label" top: "f" }\nlayer { name: "c" type: "ReLU" bottom: "label" top: "label" }\n')
    with pytest.raises(NetError, match="in place, which another bottom reads as it was"):
        brew.Net("net.prototxt", brew.TRAIN)


CONV = 'layer {{ name: "{0}" type: "{1}" bottom: "{2}" top: "{0}" {3} }}\n'


@pytest.mark.parametrize("layers, offset", [
    ([("c", "Convolution", "data", "convolution_param { num_output: 1 pad: 35 kernel_size: 3 }")], "34"),
    ([("c", "Convolution", "data", "convolution_param { num_output: 1 pad: 1 kernel_size: 3 }")], ""),
    ([("p", "Pooling", "data", "pooling_param { kernel_size: 2 stride: 2 }"),
      ("c", "Deconvolution", "p", "convolution_param { num_output: 1 kernel_size: 4 stride: 2 }")], "1"),
    ([("p", "Pooling", "data", "pooling_param { kernel_size: 2 stride: 2 }"),
      ("c", "Deconvolution", "p", "convolution_param { num_output: 1 kernel_size: 4 stride: 2 pad: 1 }")], ""),
    ([("c", "InnerProduct", "data", "inner_product_param { num_output: 4 }")], ""),                        # no map: nothing to say
])
@pytest.mark.parametrize("given", ["", "crop_param { offset: 2 }"])
def test_a_crop_that_begins_beside_what_it_cuts(layers: list[tuple[str, ...]], offset: str, given: str) -> None:
    text = INPUT + "".join(CONV.format(*layer) for layer in layers) + f'layer {{ name: "crop" type: "Crop" bottom: "c" bottom: "data" top: "y" {given} }}\n'
    Path("net.prototxt").write_text(text)
    _, notes = check_net_file("net.prototxt")
    warnings = [note for note in notes if "begins at 0" in note]
    assert [w.split("for the offset ")[1].split("\n")[0] for w in warnings] == ([offset] if offset and not given else [])
