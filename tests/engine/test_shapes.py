"""Public nets come out as Caffe builds them: blobs, parameters, layers and splits, inputs and outputs."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

import brew

pytestmark = pytest.mark.oracle
FOLDER = Path(__file__).resolve().parents[3] / "shared"


@pytest.mark.parametrize("name", sorted(p.name for p in (FOLDER / "oracle/nets").glob("*.shapes.json")))
def test_net_is_built_as_by_caffe(name: str, shared: Path) -> None:
    caffes = json.loads((shared / "oracle/nets" / name).read_text())
    net = brew.Net(shared / "data/prototxts/BVLC+caffe" / caffes["prototxt"], brew.TRAIN if caffes["phase"] == "TRAIN" else brew.TEST)
    assert net.inputs == caffes["inputs"] and net.outputs == caffes["outputs"]
    assert [[k, list(v.shape)] for k, v in net.blobs.items()] == caffes["blobs"]
    assert [[k, [list(b.shape) for b in v]] for k, v in net.params.items()] == caffes["params"]
    assert [{"name": n, "type": layer.type, "bottoms": net.bottom_names[n], "tops": net.top_names[n], "n_param_blobs": len(layer.blobs)}
            for n, layer in net.layer_dict.items()] == caffes["layers"]
    assert sum(p.blob.count for p in net.learnable) == caffes["param_count"]
