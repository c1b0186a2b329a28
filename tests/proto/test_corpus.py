"""701 prototxts of 50 public repositories: nets and solvers are read, and what is refused is no net."""
from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

import pytest

from brew.proto import PrototxtError, read_net, read_solver

pytestmark = pytest.mark.oracle

# Files that are no nets or solvers, by what is wrong with them: (what the error says, how many).
REFUSED = {
    "templates with $ to be replaced": ("the character '$' has no place here", 24),
    "templates with {names} to be replaced": ("luoyetx+deep-landmark", 9),
    "templates with cls3x to be replaced": ('"num_output" is a whole number, found cls3x', 3),
    "label maps of SSD": ("this is a label map", 6),
    "a form between V0 and V1": ("V0LayerParameter has no field", 3),
    "a V1 layer with a type in quotes": ('"type" has no value "Softmax"', 1),
    "rates and layers of forks that compute something else": ("which is known from forks of Caffe: it", 6),
}


def test_every_public_prototxt_is_read_or_refused_for_a_reason(shared: Path) -> None:
    logging.getLogger("brew").setLevel(logging.ERROR)
    counts: Counter[str] = Counter()
    refusals = []
    try:
        for path in sorted((shared / "data/prototxts").rglob("*")):
            if path.is_file():
                solver = re.search(r"^\s*(base_lr|lr_policy|train_net|test_iter)\s*:", path.read_text(errors="replace"), re.M)
                try:
                    (read_solver if solver else read_net)(path)
                    counts["solvers" if solver else "nets"] += 1
                except PrototxtError as e:
                    counts["refused"] += 1
                    refusals.append(str(e))
    finally:
        logging.getLogger("brew").setLevel(logging.NOTSET)
    print(dict(counts))
    assert counts == {"nets": 504, "solvers": 145, "refused": 52}
    for what, (says, number) in REFUSED.items():
        assert sum(says in text for text in refusals) == number, what
    assert not [text for text in refusals if not any(says in text for says, _ in REFUSED.values())]
