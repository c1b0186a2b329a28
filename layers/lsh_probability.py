"""How probable it was that a unit entered an active set: what log_q subtracts the logarithm of."""
from __future__ import annotations

from functools import lru_cache
from math import comb, pi
from typing import Any

import numpy as np

from ..engine.random import Random
from ..proto import brew_pb2 as pb

POINTS, PAIRS = 129, 1 << 16                 # of the table p(rho), and the Gaussian pairs behind each of its values


@lru_cache(maxsize=4)
def winner_collisions(bins: int) -> np.ndarray:
    """p(rho) (POINTS), rho from -1 to 1: how probable it is that the largest of `bins` values of two Gaussian vectors
    with correlation rho stand in the same place. Estimated from pairs that all rho share: standard error below 0.002."""
    random = Random(0, "lsh/collisions")
    x, z = random.normal((PAIRS, bins)), random.normal((PAIRS, bins))
    winners = x.argmax(1)
    return np.array([(winners == (rho * x + np.sqrt(max(0.0, 1 - rho * rho)) * z).argmax(1)).mean()
                     for rho in np.linspace(-1, 1, POINTS)])


def collision(xp: Any, p: pb.LSHParameter, bins: int, rho: Any) -> Any:
    """How probable it is that one hash of two vectors with cosine rho is the same. Exact for SIMHASH, 1 - acos(rho) /
    pi (Goemans and Williamson 1995); for WTA and DWTA that of Gaussian vectors, an approximation for all others."""
    rho = xp.clip(rho, -1, 1)
    if p.hash == p.SIMHASH:
        return 1 - xp.arccos(rho) / pi
    table = winner_collisions(bins)
    return xp.interp(rho.reshape(-1), xp.linspace(-1, 1, POINTS), xp.asarray(table)).reshape(rho.shape)


def log_miss(xp: Any, p: pb.LSHParameter, bins: int, rho: Any, probed: Any) -> Any:
    """log(1 - c), c the probability that a unit is found in the tables that were looked at. rho (N, S) cosines, probed
    (N) tables. A bucket's overflow is left out of account: c is then too high."""
    alike = collision(xp, p, bins, rho.astype(np.float64)) ** p.num_hashes       # all hashes of a table
    if p.sampling == p.THRESHOLD:
        fewer = sum(comb(p.num_tables, j) * alike**j * (1 - alike)**(p.num_tables - j) for j in range(p.threshold))
        return xp.log(xp.minimum(fewer, 1))
    return probed[:, None] * xp.log1p(-alike)


def log_probability(xp: Any, p: pb.LSHParameter, bins: int, rho: Any, found: Any, outputs: int, samples: int) -> Any:
    """log q (N, S) of units that are not labels, for sets of each example. found (N, 4): labels, hits, uniform ones,
    tables looked at. UNIFORM needs no cosines."""
    labels, hits, filled, probed = (found[:, i].astype(np.float64) for i in range(4))
    if p.sampling == p.UNIFORM:
        return _log((samples - labels) / xp.maximum(outputs - labels, 1), xp)[:, None]
    with np.errstate(divide="ignore"):
        miss = xp.exp(log_miss(xp, p, bins, rho, probed))
    return _log(1 - miss + miss * (filled / xp.maximum(outputs - labels - hits, 1))[:, None], xp)


def log_probability_of_batch(xp: Any, p: pb.LSHParameter, bins: int, rho: Any, found: tuple[int, int, int], probed: Any,
                             outputs: int, samples: int) -> Any:
    """log q (S) of units that are no item's labels, for one set: found by any of the examples, or drawn uniformly."""
    labels, hits, filled = found
    if p.sampling == p.UNIFORM:
        return _log(xp.full(1, (samples - labels) / max(outputs - labels, 1)), xp)
    with np.errstate(divide="ignore"):
        miss = xp.exp(log_miss(xp, p, bins, rho, probed.astype(np.float64)).sum(0))
    return _log(1 - miss + miss * (filled / max(outputs - labels - hits, 1)), xp)


def _log(q: Any, xp: Any) -> Any:
    """Probabilities that round to 0 count as the least float."""
    return xp.log(xp.maximum(q, np.finfo(np.float32).tiny)).astype(np.float32)
