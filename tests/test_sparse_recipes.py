"""The recipes of models/ with sampled output layers train, dense and sampled, on made examples of their dimensions."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.proto import pb, read_net, read_solver
from brew.tools.convert_xc import Rows, write_rows

MODELS = Path(__file__).resolve().parents[1] / "models"
SMALL = ["bibtex", "delicious", "rcv1", "tmc2007", "xc_synthetic"]
LARGE = ["amazon_670k", "delicious_200k", "wiki_325k"]


def make_databases(net: pb.NetParameter, features: int, labels: int) -> None:
    """A database of each data layer of the net, at its place in the working directory."""
    rng = np.random.default_rng(0)
    for source in {layer.sparse_data_param.source for layer in net.layer if layer.type == "SparseData"}:
        n, k = 40, 3
        index = np.sort(np.stack([rng.choice(features, k, replace=False) for _ in range(n)]), 1).astype(np.int32)
        rows = Rows(np.ones(n, np.int32), np.full(n, k, np.int32), rng.integers(0, labels, n).astype(np.int32),
                    index.reshape(-1), np.ones(n * k, np.float32))
        Path(source).parent.mkdir(parents=True, exist_ok=True)
        write_rows(source, [rows], lambda: (features, labels))


@pytest.mark.parametrize("solver", ["solver", "solver_lsh"])
@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_train(name: str, solver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MODELS / name / f"{solver}.prototxt"
    if not file.exists():
        assert name == "xc_synthetic"                        # has a sampled layer alone
        return
    monkeypatch.chdir(tmp_path)
    param = read_solver(file)
    assert Path(param.net).parent.name == name
    net = read_net(MODELS / name / Path(param.net).name)
    sizes = {layer.name: layer.inner_product_param for layer in net.layer if layer.HasField("inner_product_param")}
    make_databases(net, sizes["fc1"].input_dim, sizes["out"].num_output)
    param.net, param.snapshot_prefix, param.snapshot, param.test_iter[:] = str(MODELS / name / Path(param.net).name), "run", 0, [1]
    s = brew.get_solver(param)
    before = s.net.params["out"][0].data.copy()
    s.step(2)
    assert np.isfinite(s.losses).all() and not np.array_equal(before, s.net.params["out"][0].data)
    test = s.test_nets[0]
    test.share_with(s.net)
    found = test.forward()
    assert {"p1", "p3", "p5"} <= set(found) and all(0 <= float(found[k]) <= 1 for k in ("p1", "p3", "p5"))


@pytest.mark.parametrize("name", LARGE)
def test_large_recipes_have_the_published_settings(name: str) -> None:
    net = read_net(MODELS / name / "train_val.prototxt")
    out = next(layer for layer in net.layer if layer.name == "out")
    p = out.lsh_param
    assert (out.inner_product_param.num_output, p.num_hashes, p.num_tables, p.num_samples) == {
        "amazon_670k": (670091, 6, 400, 32768), "delicious_200k": (205443, 9, 50, 2048),
        "wiki_325k": (325056, 5, 350, 40000)}[name]
