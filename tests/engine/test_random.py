"""Random numbers: the published generator, the same on all devices, and the distributions that fillers promise."""
from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from brew.engine.errors import NetError
from brew.engine.fillers import fill
from brew.engine.random import Random, permutation, words
from brew.kernels import cpu
from brew.proto import pb
from brew.tools.gradient_check import one_layer_net


@pytest.mark.parametrize("key, stream, expected", [
    (0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ((0xFFFFFFFF << 32) | 0xFFFFFFFF, (0xFFFFFFFF << 32) | 0xFFFFFFFF, None)])
def test_philox_gives_the_published_words(key: int, stream: int, expected: list[int] | None) -> None:
    """The known answers of Random123 (kat_vectors): counter and key all zero. Other keys: different words."""
    x = np.empty(4, np.uint32)
    cpu.random_words(x, key, stream)
    assert x.tolist() == expected if expected else x.tolist() != [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_streams_are_independent_of_each_other_and_of_threads() -> None:
    a = words(1, "layer", 0, 100_000)
    assert (a == words(1, "layer", 0, 100_000)).all() and (a[:50_000] == words(1, "layer", 0, 50_000)).all()
    for other in (words(2, "layer", 0, 1000), words(1, "other", 0, 1000), words(1, "layer", 1, 1000)):
        assert (a[:1000] == other).mean() < 0.01


def test_a_permutation_holds_every_number_once() -> None:
    order = permutation(3, "data", 0, 1000)
    assert sorted(order) == list(range(1000)) and (order != permutation(3, "data", 1, 1000)).any()


def test_dropout_masks_are_the_same_on_all_devices(device: str) -> None:
    net = one_layer_net('type: "Dropout" top: "y" dropout_param { dropout_ratio: 0.4 }', (1000,))
    y = net.forward(b0=np.ones(1000))["y"]
    x = np.empty(1000, np.uint32)
    from brew.engine.random import stream
    cpu.random_words(x, 1701, stream("l", 1))
    assert ((y > 0) == (x >= int(np.float32(0.4) * 2.0**32))).all() and abs((y > 0).mean() - 0.6) < 0.05
    assert (y[y > 0] == np.float32(1 / 0.6)).all()


SHAPE = (64, 32, 3, 3)
N_IN, N_OUT = 32 * 9, 64 * 9


@pytest.mark.parametrize("text, mean, std, low, high", [
    (dict(type="constant", value=3), 3, 0, 3, 3), (dict(type="uniform", min=-1, max=2), 0.5, 3 / sqrt(12), -1, 2),
    (dict(type="gaussian", mean=1, std=2), 1, 2, -12, 12), (dict(type="xavier"), 0, sqrt(1 / N_IN), -sqrt(3 / N_IN), sqrt(3 / N_IN)),
    (dict(type="xavier", variance_norm=1), 0, sqrt(1 / N_OUT), -sqrt(3 / N_OUT), sqrt(3 / N_OUT)),
    (dict(type="msra", variance_norm=2), 0, sqrt(4 / (N_IN + N_OUT)), -1, 1), (dict(type="gaussian", sparse=16), 0, 0.5, -6, 6)], ids=str)
def test_fillers_have_their_moments(text: dict[str, object], mean: float, std: float, low: float, high: float) -> None:
    x = fill(SHAPE, pb.FillerParameter(**text), Random(1, "w"), pb.LayerParameter())  # type: ignore[arg-type]
    assert x.dtype == np.float32 and x.min() >= low - 1e-6 and x.max() <= high + 1e-6
    assert abs(x.mean() - mean) < 0.05 * max(std, 0.1) and abs(x.std() - std) < 0.05 * max(std, 0.1)


def test_unit_balls_sum_to_one() -> None:
    x = fill((5, 7), pb.FillerParameter(type="positive_unitball"), Random(1, "w"), pb.LayerParameter())
    np.testing.assert_allclose(x.sum(1), 1, rtol=1e-6)


def test_bilinear_interpolates() -> None:
    x = fill((2, 1, 4, 4), pb.FillerParameter(type="bilinear"), Random(1, "w"), pb.LayerParameter())
    np.testing.assert_allclose(x[0, 0, 0], np.array([0.25, 0.75, 0.75, 0.25]) * 0.25)
    with pytest.raises(NetError, match="the bilinear filler needs square kernels"):
        fill((2, 3), pb.FillerParameter(type="bilinear"), Random(1, "w"), pb.LayerParameter(name="l", type="T"))
