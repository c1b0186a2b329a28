"""The generated module is that of brew.proto, and the numbers are Caffe's."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from brew.proto import pb

HERE = Path(pb.__file__).parent


def declared(*files: str) -> dict[str, dict[str, tuple[int, str]]]:
    """message -> field -> (number, default), read from the texts."""
    found: dict[str, dict[str, tuple[int, str]]] = {}
    text = re.sub(r"//[^\n]*", "", "".join((HERE / file).read_text() for file in files or ("brew.proto", "forks.proto")))
    stack: list[str] = []
    for token in re.finditer(r"message (\w+) \{|enum (\w+) \{|(?:optional|repeated) ([\w.]+) (\w+) = (\d+)(?: \[([^\]]*)\])?;|\}", text):
        message, enum, _, field, number, options = token.groups()
        if message or enum:
            stack.append(message or "")
            found.setdefault(message or "", {})
        elif field:
            default = re.search(r"default = (.*)", options or "")
            found[stack[-1]][field] = int(number), default[1].strip('"') if default else ""
        else:
            stack.pop()
    found.pop("", None)
    return found


@pytest.mark.parametrize("message", sorted(declared()))
def test_the_generated_module_is_up_to_date(message: str) -> None:
    nested = {n.name: n for m in pb.DESCRIPTOR.message_types_by_name.values() for n in m.nested_types}
    descriptor = pb.DESCRIPTOR.message_types_by_name.get(message) or nested[message]
    fields = declared()[message]
    assert {f.name: f.number for f in descriptor.fields} == {name: number for name, (number, _) in fields.items()}
    for f in descriptor.fields:
        if fields[f.name][1] and f.cpp_type in (f.CPPTYPE_FLOAT, f.CPPTYPE_INT32, f.CPPTYPE_UINT32):
            assert f.default_value == pytest.approx(float(fields[f.name][1]))


@pytest.mark.parametrize("path, number", [("NetParameter.layer", 100), ("LayerParameter.clip_param", 148), ("LayerParameter.recurrent_param", 146), ("V1LayerParameter.loss_param", 42),
                                          ("V1LayerParameter.blob_share_mode", 1002), ("V0LayerParameter.hdf5_output_param", 1001), ("SolverParameter.weights", 42),
                                          ("SolverParameter.layer_wise_reduce", 41), ("BlobProto.double_diff", 9), ("ConvolutionParameter.dilation", 18), ("SolverState.current_step", 4)])
def test_numbers_are_caffes(path: str, number: int) -> None:
    message, field = path.split(".")
    assert pb.DESCRIPTOR.message_types_by_name[message].fields_by_name[field].number == number
