"""Step of first_run.py: the same training gives the same bits, also if it is killed and resumed."""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from checks import check

import brew
from brew.proto import pb
from brew.tools.database import write_database
from brew.tools.metrics import read_metrics

MODELS = Path(brew.layers.__file__).resolve().parents[1] / "models"
BREW = [sys.executable, "-m", "brew.tools.cli"]
SOLVER = """net: "net.prototxt" test_iter: 2 test_interval: {half} base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005
lr_policy: "inv" gamma: 0.0001 power: 0.75 display: 10 max_iter: {end} snapshot: {quarter} snapshot_prefix: "run"
random_seed: 1 solver_mode: GPU
"""


def repeat(args: argparse.Namespace) -> bool:
    """LeNet twice, bit for bit; killed twice and resumed, bit for bit; and models/digits, which must learn."""
    with tempfile.TemporaryDirectory(prefix="first_run") as name:
        work = Path(name)
        folders = [prepare(work, what, args.iterations) for what in ("whole", "again", "killed")]
        trainings = [train(folder, "solver.prototxt") for folder in folders[:2]]
        digits = train_digits(work / "digits") if args.digits else None
        for kill in (args.iterations // 4, args.iterations // 2):
            kill_after(folders[2], kill)
        trainings.append(train(folders[2], "solver.prototxt", "-snapshot", "auto"))
        works = all([finish(process, folder) for process, folder in zip(trainings, folders)])
        works = works and same(args.iterations, *folders)
        if digits and finish(digits, work / "digits"):
            metrics = read_metrics(work / "digits/data/digits/digits_metrics.jsonl")
            accuracy = [r["accuracy"] for r in metrics if "accuracy" in r][-1]
            works &= check("the digits are learned", accuracy >= 0.97, f"accuracy {accuracy:.4f}")
        return works and (not digits or digits.returncode == 0)


def prepare(work: Path, name: str, iterations: int) -> Path:
    """A folder with LeNet and a solver, on a database that all share: ten patterns with noise."""
    if not (work / "db").exists():
        rng = np.random.default_rng(0)
        patterns = rng.integers(0, 200, (10, 28, 28))
        images = ((patterns[i % 10] + rng.integers(0, 56, (28, 28))).astype(np.uint8).tobytes() for i in range(2000))
        shape = {"channels": 1, "height": 28, "width": 28}
        records = (pb.Datum(**shape, label=i % 10, data=data) for i, data in enumerate(images))
        write_database(work / "db", ((f"{i:08d}".encode(), record) for i, record in enumerate(records)))
    folder = work / name
    folder.mkdir()
    net = (MODELS / "lenet/train_val.prototxt").read_text()
    (folder / "net.prototxt").write_text(re.sub(r'source: "[^"]*"', f'source: "{work / "db"}"', net))
    solver = SOLVER.format(end=iterations, half=iterations // 2, quarter=iterations // 4)
    (folder / "solver.prototxt").write_text(solver)
    return folder


def train(folder: Path, solver: str, *more: str) -> subprocess.Popen[str]:
    """Start brew train -gpu 0 in this folder, with its output in the file `log`."""
    with open(folder / "log", "w") as log:
        command = [*BREW, "train", "-solver", solver, "-gpu", "0", "-threads", "2", *more]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True)


def train_digits(folder: Path) -> subprocess.Popen[str]:
    """Start training models/digits."""
    folder.mkdir()
    (folder / "models").symlink_to(MODELS)
    subprocess.run([*BREW, "data", "digits"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return train(folder, "models/digits/solver.prototxt")


def kill_after(folder: Path, iteration: int) -> None:
    """Start or resume the training, and kill it once it has written the snapshot of this iteration."""
    process = train(folder, "solver.prototxt", "-snapshot", "auto")
    while process.poll() is None and not (folder / f"run_iter_{iteration}.caffemodel").exists():
        time.sleep(0.002)
    check(f"killed after the snapshot at {iteration}", process.poll() is None)
    process.kill()
    process.wait()


def finish(process: subprocess.Popen[str], folder: Path) -> bool:
    """Wait for a training; if it failed, print the end of its log."""
    code = process.wait()
    if code:
        print((folder / "log").read_text()[-3000:])
    return check(f"{folder.name}: the training ends with 0", code == 0, f"exit code {code}" if code else "")


def same(iterations: int, whole: Path, *others: Path) -> bool:
    """Whether the results are equal bit for bit, and the loss has fallen."""
    losses = [r["loss"] for r in course(whole) if "lr" in r]
    print(f"losses {', '.join(f'{loss:.4f}' for loss in losses)}")
    works = check("the loss falls", losses[-1] < 0.5 * losses[0])
    for folder in others:
        for name in (f"run_iter_{iterations}.caffemodel", f"run_iter_{iterations}.solverstate"):
            equal = (folder / name).read_bytes() == (whole / name).read_bytes()
            works &= check(f"{folder.name}: {name} has the bits of whole", equal)
        works &= check(f"{folder.name}: losses and test results are those of whole", course(folder) == course(whole))
    return works


def course(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a training without the time they took."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(folder / "run_metrics.jsonl")]
