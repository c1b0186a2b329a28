"""brew data xc-synthetic: sparse rows with lists of labels, of any size, with a planted structure that can be learned.

How it is planted. Labels are divided at random into topics of 64. Each label has OWN features, drawn
uniformly, and its topic has SHARED features, which all of its labels have as well.
- The labels of an example: the first one is drawn by a power law, the label of rank r (from 0) with a probability
  proportional to (r + 10)^-power. Each further one comes, with equal chances, from the topic of the first one, its more
  popular labels more often, or by the power law again. There are 1 to 2 m - 1 draws, m on average; repeated ones count
  once.
- Its features: each feature of its labels with probability KEPT, then noise up to a total of 1/2 to 3/2 of `nonzeros`;
  noise features are drawn by the same power law, over all features in a random order. Examples whose labels give more
  features than that have no noise.
- Values are uniform in 1/2 to 3/2, divided by the root of the number of features. They tell nothing about the labels.
A net finds the topic first and then the label; rare labels have few examples. Training and test examples are
independent draws of the same structure. Each number depends on the seed and its own place alone (Philox streams), so
that more examples begin with the same ones.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine.errors import DataError, Position
from ..engine.files import check_folder
from ..engine.random import permutation, words
from ..engine.store import FLOAT32, INT32
from .convert_xc import KEYS, MOST, MOST_LABELS, Rows, described, write_rows

TOPIC = 64                                # labels of a topic
OWN, SHARED, KEPT = 6, 4, 0.75
CHUNK = 8192                              # examples that are made together
MADE_BY = "made_by.txt"                   # in the database's folder


@dataclass(frozen=True)
class Synthetic:
    """The size of such data; `nonzeros` and `labels_per_example` are means."""

    labels: int = 4096
    features: int = 16384
    examples: int = 50000
    test: int = 10000
    nonzeros: int = 75
    labels_per_example: int = 5
    power: float = 1.0
    seed: int = 1

    def check(self) -> None:
        """Raise DataError for a size that cannot be."""
        for name, most in (("labels", MOST_LABELS), ("features", MOST), ("examples", KEYS), ("test", KEYS),
                           ("nonzeros", self.features), ("labels_per_example", self.labels)):
            if not 1 <= getattr(self, name) <= most:
                raise DataError(f"-{name} must lie between 1 and {most}, found {getattr(self, name)}")
        if not 0 <= self.power <= 10:
            raise DataError(f"-power must lie between 0 and 10, found {self.power:g}")
        if not 0 <= self.seed < 2**63:
            raise DataError(f"-seed is a whole number from 0 on, found {self.seed}")

    def __str__(self) -> str:
        return " ".join(f"-{name} {value}" for name, value in vars(self).items())


class Draw:
    """Uniform numbers of one purpose, one array after the other."""

    def __init__(self, seed: int, who: str, number: int):
        self.seed, self.who, self.number, self.count = seed, who, number, 0

    def uniform(self, *shape: int) -> np.ndarray:
        """float64 in [0, 1)."""
        self.count += 1
        n = int(np.prod(shape))
        return words(self.seed, f"xc-synthetic/{self.who}/{self.count}", self.number, n).reshape(shape) / 2.0**32

    def whole(self, limit: int, *shape: int) -> np.ndarray:
        """int64 in 0..limit - 1."""
        return (self.uniform(*shape) * limit).astype(np.int64)


class Structure:
    """What labels have to do with features: the same for the training and the test examples."""

    def __init__(self, s: Synthetic):
        self.s = s
        draw = Draw(s.seed, "structure", 0)
        self.by_rank = permutation(s.seed, "xc-synthetic/popularity", 0, s.labels)         # the label of each rank
        # each topic's labels, the popular ones first: ranks are dealt out like cards in a new order for each round
        topics = -(-s.labels // TOPIC)
        ranks = np.arange(s.labels)
        order = np.argsort(draw.uniform(s.labels) + ranks // topics, kind="stable")
        self.topic_of = np.empty(s.labels, np.int64)           # of each label
        self.topic_of[self.by_rank[order]] = ranks % topics
        self.members = self.by_rank[order]                     # of topic t: those at t, t + topics, t + 2 topics, ...
        self.topics = topics
        self.own = draw.whole(s.features, s.labels, OWN).astype(np.int32)
        self.shared = draw.whole(s.features, topics, SHARED).astype(np.int32)
        self.label_law = power_law(s.labels, s.power)
        self.noise_law = power_law(s.features, s.power)
        self.noise_of = permutation(s.seed, "xc-synthetic/noise", 0, s.features)

    def popular(self, u: np.ndarray) -> np.ndarray:
        """Labels drawn by the power law."""
        labels: np.ndarray = self.by_rank[np.searchsorted(self.label_law, u, side="right")]
        return labels

    def neighbours(self, label: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Labels of the topics of these; the more popular ones more often."""
        topic = self.topic_of[label]
        size = (self.s.labels - topic + self.topics - 1) // self.topics
        labels: np.ndarray = self.members[topic + self.topics * (size * u**3).astype(np.int64)]
        return labels


def power_law(n: int, power: float) -> np.ndarray:
    """The cumulative probabilities of n ranks; the last one is left out, as everything above belongs to it."""
    weights = (np.arange(n) + 10.0) ** -power
    law: np.ndarray = np.cumsum(weights) / weights.sum()
    return law[:-1]


def distinct(rows: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, values) in rising order, each pair once; values lie below `limit`."""
    keys = np.unique(rows * limit + values)
    return keys // limit, keys % limit


def make(structure: Structure, part: str, first: int, count: int) -> Rows:
    """`count` examples of a part ("train" or "test") from number `first` on, a multiple of CHUNK."""
    s, draw = structure.s, Draw(structure.s.seed, part, first // CHUNK)
    wanted = 1 + draw.whole(2 * s.labels_per_example - 1, count)
    head = structure.popular(draw.uniform(count))
    most = 2 * s.labels_per_example - 1
    from_topic, u = draw.uniform(count, most) < 0.5, draw.uniform(count, most)
    labels = np.where(from_topic, structure.neighbours(head[:, None], u), structure.popular(u))
    labels[:, 0] = head
    rows, labels = distinct(*taken(labels, np.arange(most) < wanted[:, None]), s.labels)
    label_counts = np.bincount(rows, minlength=count)

    offered = np.concatenate([structure.own[labels], structure.shared[structure.topic_of[labels]]], 1)
    at, features = taken(offered, draw.uniform(*offered.shape) < KEPT)
    signal = distinct(rows[at], features.astype(np.int64), s.features)
    wanted = np.minimum((s.nonzeros + 1) // 2 + draw.whole(s.nonzeros + 1, count), s.features)
    missing = np.maximum(wanted - np.bincount(signal[0], minlength=count), 0)
    width = max(int(missing.max()), 1)
    noise = structure.noise_of[np.searchsorted(structure.noise_law, draw.uniform(count, width), side="right")]
    more = taken(noise, np.arange(width) < missing[:, None])
    rows, features = distinct(np.concatenate([signal[0], more[0]]), np.concatenate([signal[1], more[1]]), s.features)
    feature_counts = np.bincount(rows, minlength=count)
    values = (draw.uniform(len(rows)) + 0.5) / np.sqrt(feature_counts[rows])
    return Rows(label_counts.astype(INT32), feature_counts.astype(INT32), labels.astype(INT32), features.astype(INT32),
                values.astype(FLOAT32))


def taken(values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, value) of what is chosen in a matrix."""
    return np.nonzero(chosen)[0], values[chosen]


def blocks(structure: Structure, part: str, count: int) -> Iterator[Rows]:
    for first in range(0, count, CHUNK):
        yield make(structure, part, first, min(CHUNK, count - first))


def build_synthetic(folder: str, size: Synthetic) -> int:
    """Make FOLDER/xc_synthetic_train_lmdb and _test_lmdb; returns the exit code 0. Existing databases are kept if they
    were made with the same flags. Raises DataError."""
    size.check()
    target = Path(folder or "data/xc-synthetic")
    check_folder(target)
    structure: Structure | None = None
    for part, count in (("train", size.examples), ("test", size.test)):
        database = target / f"xc_synthetic_{part}_lmdb"
        if database.exists():
            made_by = database / MADE_BY
            before = made_by.read_text(errors="replace").strip() if made_by.is_file() else "something else"
            if before != str(size):
                raise DataError(f"was made with {before}\n  requested: {size}; remove it, or write elsewhere",
                                Position(str(database)))
            print(f"{database} is there already")
            continue
        structure = structure or Structure(size)
        counts = write_rows(database, blocks(structure, part, count), lambda: (size.features, size.labels),
                            {MADE_BY: f"{size}\n"})
        print(described(database, size.features, size.labels, *counts))
    return 0
