"""Learning rates against their formulas, and what is said when a policy lacks something."""
from __future__ import annotations

from math import cos, exp, pi

import pytest

from brew.engine.errors import SolverError
from brew.proto import pb
from brew.solvers.lr_policy import advance, check, rate

P = dict(base_lr=0.5, gamma=0.1, power=0.75, stepsize=10, max_iter=100, stepvalue=[5, 8])


def param(**more: object) -> pb.SolverParameter:
    return pb.SolverParameter(**{**P, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("policy, formula", [
    ("fixed", lambda i: 0.5), ("step", lambda i: 0.5 * 0.1 ** (i // 10)), ("exp", lambda i: 0.5 * 0.1**i), ("inv", lambda i: 0.5 * (1 + 0.1 * i) ** -0.75),
    ("poly", lambda i: 0.5 * (1 - i / 100) ** 0.75), ("sigmoid", lambda i: 0.5 / (1 + exp(-0.1 * (i - 10)))), ("cosine", lambda i: 0.25 * (1 + cos(pi * i / 100)))])
def test_policies_follow_their_formulas(policy: str, formula: object) -> None:
    for i in (0, 1, 9, 10, 11, 55, 100):
        assert rate(param(lr_policy=policy), i) == pytest.approx(formula(i), rel=1e-5)  # type: ignore[operator]


def test_multistep_counts_the_steps_it_has_passed() -> None:
    p, step, rates = param(lr_policy="multistep"), 0, []
    for i in range(10):
        step = advance(p, i, step)
        rates.append(round(rate(p, i, step), 6))
    assert rates == [0.5] * 5 + [0.05] * 3 + [0.005] * 2


def test_warm_up_rises_to_the_policys_own_rate() -> None:
    p = param(lr_policy="fixed", warmup_iter=4, warmup_start_lr=0.1)
    assert [rate(p, i) for i in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


@pytest.mark.parametrize("fields, message", [
    (dict(lr_policy="stepp"), 'no lr_policy is called "stepp"\n  did you mean "step"?'), (dict(), "lr_policy must be given"),
    (dict(lr_policy="step", gamma=0.1, base_lr=1), 'lr_policy "step" needs stepsize'), (dict(lr_policy="fixed"), "base_lr must be given"),
    (dict(lr_policy="exp", base_lr=1, gamma=-1), "gamma must not be negative, found -1"), (dict(lr_policy="multistep", base_lr=1, gamma=1), 'lr_policy "multistep" needs stepvalue')])
def test_what_is_missing_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SolverError) as e:
        check(pb.SolverParameter(**fields), "solver.prototxt")  # type: ignore[arg-type]
    assert str(e.value).startswith(f"solver.prototxt: {message}")


def test_a_sigmoid_may_fall_and_never_overflows(caplog: pytest.LogCaptureFixture) -> None:
    """DIGITS always writes a negative gamma."""
    p = param(lr_policy="sigmoid", gamma=-0.1)
    check(p)
    assert 'gamma is -0.1: with lr_policy "sigmoid" the rate falls' in caplog.text
    for i in (0, 9, 10, 11, 100):
        assert rate(p, i) == pytest.approx(0.5 / (1 + exp(0.1 * (i - 10))), rel=1e-5)
    for gamma, i, wanted in ((-1, 10**6, 0), (1, 10**6, 0.5), (-1, 0, 0.5), (1000, 0, 0)):
        assert rate(param(lr_policy="sigmoid", gamma=gamma, stepsize=1000), i) == pytest.approx(wanted, abs=1e-6)
