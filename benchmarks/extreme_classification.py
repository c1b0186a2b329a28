"""The recipes bibtex, delicious, rcv1 and tmc2007 beside what people use for such data: napkinXC and omikuji.

    pip install napkinxc omikuji
    python benchmarks/extreme_classification.py SOURCE WORK [--sets bibtex ...] [--sides "brew, dense" ...] [--seeds 5] [--held-out]

SOURCE has the files that `brew data NAME --from SOURCE` takes; databases and text files are made in WORK. P@1, P@3 and P@5 are
of the test set: the mean over the seeds and its standard error. Times are CPU seconds on one thread: of training, with reading,
and of the five best labels of every test example; sizes are of the files that are kept. napkinXC and omikuji have their
defaults. --held-out trains on nine tenths of the training set and tests on every tenth row of it: so the settings in models/
were chosen.
"""
from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any

import numpy as np
from train_step import processor

import brew
from brew.proto import parse, pb, read_net, read_solver
from brew.tools.convert_xc import RowReader, convert
from brew.tools.xc_sets import build_xc

MODELS = Path(__file__).resolve().parents[1] / "models"
K = 5
Row = tuple[list[int], dict[int, float]]                # labels, {feature: value}
Result = tuple[np.ndarray, float, float, int]           # P@1, P@3, P@5; seconds of training, of prediction; bytes


def rows_of(database: Path) -> list[Row]:
    """The rows of a database."""
    size = int((database / "label_frequencies.txt").read_text().split()[0])
    net = brew.Net(parse(f'layer {{ name: "d" type: "SparseData" top: "v" top: "i" top: "l" sparse_data_param {{ source: "{database}" '
                         f'batch_size: {size} }} }}', pb.NetParameter()), brew.TEST)
    net.forward()
    return [([int(v) for v in labels if v >= 0], {int(k): float(v) for k, v in zip(index, values) if k >= 0})
            for values, index, labels in zip(*(net.blobs[name].data for name in "vil"))]


def write_text(path: Path, rows: list[Row], features: int, labels: int) -> None:
    lines = [",".join(map(str, ls)) + "".join(f" {f}:{v:.9g}" for f, v in found.items()) + "\n" for ls, found in rows]
    path.write_text(f"{len(rows)} {features} {labels}\n" + "".join(lines))


def prepare(name: str, source: str, work: Path, held_out: bool) -> tuple[Path, dict[str, list[Row]]]:
    """Databases under a folder's data/NAME, and the same rows as text beside them; the folder and the rows."""
    folder = work / "whole" / "data" / name
    build_xc(name, str(folder), source)
    rows = {part: rows_of(folder / f"{name}_{part}_lmdb") for part in ("train", "test")}
    _, features, labels = map(int, (folder / f"{name}_train_lmdb" / "label_frequencies.txt").read_text().split()[:3])
    if held_out:
        folder = work / "held_out" / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        rows = {"train": [r for i, r in enumerate(rows["train"]) if i % 10 != 9], "test": rows["train"][9::10]}
    for part, found in rows.items():
        write_text(folder / f"{part}.txt", found, features, labels)
        if not (folder / f"{name}_{part}_lmdb").exists():
            convert(RowReader(folder / f"{part}.txt"), folder / f"{name}_{part}_lmdb")
    return folder, rows


def precision(best: list[list[int]], rows: list[Row]) -> np.ndarray:
    """P@1, P@3, P@5."""
    hits = np.array([[unit in labels for unit in list(units)[:K]] + [False] * (K - len(units[:K]))
                     for units, (labels, _) in zip(best, rows)])
    return np.array([hits[:, :k].mean() for k in (1, 3, 5)])


def brew_side(solver_file: str) -> Callable[..., Result]:
    def run(name: str, folder: Path, rows: dict[str, list[Row]], seed: int) -> Result:
        os.chdir(folder.parents[1])                      # where the recipe finds data/NAME
        param = read_solver(MODELS / name / solver_file)
        param.net, param.random_seed, param.snapshot_prefix = str(MODELS / name / Path(param.net).name), seed, str(folder / "brew")
        del param.test_iter[:]
        param.test_interval, param.snapshot, param.display = 0, 0, 0
        start = process_time()
        solver = brew.get_solver(param)
        solver.solve()
        training = process_time() - start
        solver.net.save(str(folder / "brew.caffemodel"))
        test = read_net(param.net)
        batch = max(b for b in range(1, 701) if len(rows["test"]) % b == 0)
        for layer in test.layer:
            if layer.type == "SparseData":
                layer.sparse_data_param.batch_size = batch
        start = process_time()
        net = brew.Net(test, brew.TEST)
        net.share_with(solver.net)
        best: list[list[int]] = []
        for _ in range(len(rows["test"]) // batch):
            net.forward()
            if "unit" in net.blobs:
                best += net.blobs["unit"].data.tolist()
            else:
                best += np.argsort(-net.blobs["score"].data, 1, kind="stable")[:, :K].tolist()
        return precision(best, rows["test"]), training, process_time() - start, (folder / "brew.caffemodel").stat().st_size
    return run


def napkinxc_side(kind: str) -> Callable[..., Result]:
    def run(name: str, folder: Path, rows: dict[str, list[Row]], seed: int) -> Result:
        from napkinxc import models
        from napkinxc.datasets import load_libsvm_file
        (x, y), (tested, _) = (load_libsvm_file(str(folder / f"{part}.txt")) for part in ("train", "test"))
        with tempfile.TemporaryDirectory() as output:
            start = process_time()
            model = getattr(models, kind)(output, threads=1, seed=seed)
            model.fit(x, y)
            training, start = process_time() - start, process_time()
            best = model.predict(tested, top_k=K)
            return precision(best, rows["test"]), training, process_time() - start, size(output)
    return run


def omikuji_side(name: str, folder: Path, rows: dict[str, list[Row]], seed: int) -> Result:
    import omikuji
    features, labels = (folder / "train.txt").read_text().split("\n", 1)[0].split()[1:]
    file = folder / "omikuji.txt"                        # it refuses files with examples that have no features
    write_text(file, [row for row in rows["train"] if row[1]], int(features), int(labels))
    start = process_time()
    model = omikuji.Model.train_on_data(str(file), n_threads=1)
    training = process_time() - start
    questions = [list(found.items()) for _, found in rows["test"]]
    start = process_time()
    best = [[label for label, _ in model.predict(question, top_k=K)] for question in questions]
    prediction = process_time() - start
    with tempfile.TemporaryDirectory() as output:
        model.save(output)
        return precision(best, rows["test"]), training, prediction, size(output)


def size(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


SIDES: dict[str, Callable[..., Result]] = {
    "brew, dense": brew_side("solver.prototxt"), "brew, LSH": brew_side("solver_lsh.prototxt"),
    "napkinXC, PLT": napkinxc_side("PLT"), "napkinXC, one-vs-rest": napkinxc_side("BR"), "omikuji (Parabel)": omikuji_side}


def row(name: str, side: str, found: list[Result]) -> str:
    def cell(values: list[float]) -> str:
        error = f" ± {stdev(values) / len(values) ** 0.5:.4f}" if len(values) > 1 else ""
        return f"{mean(values):.4f}{error}"
    cells: list[Any] = [cell([float(result[0][i]) for result in found]) for i in range(3)]
    cells += [f"{mean(result[i] for result in found):.2f}" for i in (1, 2)] + [f"{mean(result[3] for result in found) / 1e6:.2f}"]
    return f"| {name} | {side} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("work", type=Path)
    parser.add_argument("--sets", nargs="*", default=["bibtex", "delicious", "rcv1", "tmc2007"])
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--held-out", action="store_true")
    args = parser.parse_args()
    brew.set_threads(1)
    source, work = str(Path(args.source).resolve()), args.work.resolve()
    print(f"{processor()}, 1 thread, {args.seeds} seed(s), {'a tenth of the training set' if args.held_out else 'test set'}\n"
          "| set | method | P@1 | P@3 | P@5 | training, s | prediction, s | model, MB |\n" + "| --- " * 8 + "|")
    for name in args.sets:
        folder, rows = prepare(name, source, work, args.held_out)
        found: dict[str, list[Result]] = {side: [] for side in args.sides}
        for seed in range(1, args.seeds + 1):
            for side in args.sides:
                found[side].append(SIDES[side](name, folder, rows, seed))
        for side, results in found.items():
            print(row(name, side, results), flush=True)


if __name__ == "__main__":
    main()
