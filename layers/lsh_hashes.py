"""Locality-sensitive hash functions of rows: which bucket of each table a row falls into."""
from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np

from ..engine.layer import Layer
from ..engine.random import Random, permutation, words
from ..proto import brew_pb2 as pb

MOST_BITS = 24               # of a bucket's number: a table has an offset for each


class Hashes:
    """num_tables codes of num_hashes hashes, for rows of `dim` values: functions of the seed and the layer's name.

    SIMHASH   signs of random projections, one bit each (Charikar, STOC 2002). The projections are rounds of random
              signs and Hadamard transforms: D log D additions for D of them (Andoni et al., NeurIPS 2015, section 5).
    WTA       which of 8 coordinates, drawn for each hash, is largest: three bits (Yagnik et al., ICCV 2011).
    DWTA      the same with bins of permutations, in which zeros do not compete; an empty bin takes the value of another
              (Chen and Shrivastava, UAI 2018).

    With fewer than 8 coordinates WTA and DWTA compare 4 or 2.
    """

    def __init__(self, layer: Layer, p: pb.LSHParameter, dim: int):
        self.kind, self.hashes, self.tables, self.dim = p.hash, p.num_hashes, p.num_tables, dim
        self.seed, self.who, self.device = layer.seed, f"{layer.name}/hash", layer.device
        self.signs = self.kind == p.SIMHASH
        self.bins = 8 if dim >= 8 else 4 if dim >= 4 else 2
        self.bits = self.hashes * (1 if self.signs else self.bins.bit_length() - 1)
        name = p.Hash.Name(self.kind)
        layer.require(self.signs or dim >= 2, f"{name} compares inputs, and there is only one; SIMHASH needs no more",
                      "lsh_param.hash")
        layer.require(1 <= self.bits <= MOST_BITS, f"num_hashes: {self.hashes} makes numbers of buckets of "
                      f"{self.bits} bits with {name}; "
                      f"there may be 1 to {MOST_BITS}", "lsh_param.num_hashes")
        layer.require(self.tables > 0, "num_tables must be more than 0", "lsh_param.num_tables")
        self.buckets = 1 << self.bits
        # SIMHASH: projections of one block, and how many tables they serve
        self.width = max(64, 1 << (dim - 1).bit_length())
        self.each = self.width // self.hashes

    @cached_property
    def constants(self) -> Any:
        """Of SIMHASH the signs (1 + 2 blocks, width), of the others the coordinates (tables x hashes, bins)."""
        return self.device.xp.asarray(self._signs() if self.signs else self._places())

    def _signs(self) -> np.ndarray:
        rows = 1 + 2 * ceil(self.tables / self.each)
        bits = np.unpackbits(words(self.seed, self.who, 0, ceil(rows * self.width / 32)).view(np.uint8))
        return (1 - 2 * bits[:rows * self.width].astype(np.float32)).reshape(rows, self.width)

    def _places(self) -> np.ndarray:
        codes, dim, bins = self.tables * self.hashes, self.dim, self.bins
        if self.kind == pb.LSHParameter.DWTA:
            each = dim // bins                   # bins of one permutation
            orders = [permutation(self.seed, self.who, i, dim)[:each * bins] for i in range(ceil(codes / each))]
            return np.concatenate(orders)[:codes * bins].reshape(codes, bins).astype(np.int32)
        random = Random(self.seed, self.who)
        # all coordinates at once, and again those of hashes in which one repeats
        places: np.ndarray = np.floor(random.uniform((codes, bins)) * dim).astype(np.int32) % dim
        while True:
            ordered = np.sort(places, axis=1)
            again = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(1))
            if not len(again):
                return places
            if dim < 4 * bins:                   # most would repeat
                keys = random.uniform((len(again), dim))
                places[again] = np.argsort(keys, axis=1, kind="stable")[:, :bins]
            else:
                places[again] = np.floor(random.uniform((len(again), bins)) * dim).astype(np.int32) % dim

    def codes(self, x: Any, first: int, tables: int) -> Any:
        """The buckets (tables, rows) of x (rows, dim) in tables first.., int32."""
        rows = len(x)
        codes = self.device.xp.empty((tables, rows), np.int32)
        if rows and self.signs:
            self.device.kernels.sign_codes(x, self.constants, codes, rows, self.dim, first, tables, self.hashes,
                                           self.width)
        elif rows:
            self.device.kernels.winner_codes(x, self.constants, codes, rows, self.dim, first, tables, self.hashes,
                                             self.bins, self.kind == pb.LSHParameter.DWTA)
        return codes

    def groups(self, rows: int) -> Iterator[tuple[int, int]]:
        """(first, tables): all tables, a few at a time, to limit the memory for their codes of `rows` rows."""
        step = max(1, (1 << 24) // max(rows, 1))
        if self.signs:                           # whole blocks: each is computed once
            step = max(1, step // self.each) * self.each
        for first in range(0, self.tables, step):
            yield first, min(step, self.tables - first)
