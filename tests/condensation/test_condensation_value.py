"""Eq. 7 and the other values against NumPy in float64, at the edges of every dtype, and the registry of values."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from formulas import log_softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.condensation import available_values, get_value, prediction_entropy, random_scores, register_value
from hf_kcd.condensation import value as value_module

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAMES = ["cross_entropy", "disagreement", "entropy", "kd_divergence"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_their_formulas_and_half_precision_is_computed_in_float32(dtype):
    generator = np.random.default_rng(1)
    student, teacher = torch.from_numpy(generator.normal(size=(2, 32, 20)) * 3).to(dtype)
    labels = generator.integers(0, 20, 32)
    p_s, p_t = (np.exp(log_softmax(logits.double().numpy())) for logits in (student, teacher))
    expected = {
        "entropy": -(p_s * np.log(p_s)).sum(-1),
        "cross_entropy": -np.log(p_s[np.arange(32), labels]),
        "kd_divergence": (p_t * np.log(p_t / p_s)).sum(-1),
        "disagreement": np.abs(p_s - p_t).sum(-1) / 2,
    }
    assert available_values() == sorted([*expected, "random"])
    for name, formula in expected.items():
        values = get_value(name)(student.requires_grad_(), teacher, torch.from_numpy(labels))
        assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not values.requires_grad
        tolerance = {"rtol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
        np.testing.assert_allclose(values.numpy(), formula, **tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_entropy_is_finite_for_every_finite_logit(dtype, data):
    largest = torch.finfo(dtype).max
    edges = st.sampled_from([largest, -largest, torch.finfo(dtype).tiny, 0.0, 17.5, -17.5, 103.0, -104.0])
    size = data.draw(st.integers(1, 6))
    row = data.draw(st.lists(edges | st.floats(-largest, largest), min_size=size, max_size=size))
    entropy = prediction_entropy(torch.tensor([row], dtype=torch.float64).to(dtype).clamp(-largest, largest))
    assert entropy.isfinite().all() and (entropy >= 0).all() and (entropy <= math.log(size) + 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_at_the_extremes(dtype):
    largest = torch.finfo(dtype).max
    logits = torch.tensor([[largest, -largest], [largest, largest], [-largest, -largest], [0, 0]], dtype=dtype)
    expected = [0, *[math.log(2)] * 3]
    np.testing.assert_allclose(prediction_entropy(logits).double().numpy(), expected, atol=1e-6)
    opposite, labels = logits.flip(1), torch.tensor([1, 0, 0, 0])
    assert all(get_value(name)(logits, opposite, labels).isfinite().all() for name in NAMES)
    assert get_value("disagreement")(logits, opposite, labels).tolist() == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_broken_logits_are_seen_and_only_in_their_row(name, bad):
    student = torch.tensor([[bad, 0.0, 1.0], [1.0, 2.0, 3.0]])
    values = get_value(name)(student, torch.tensor([[0.0, 1.0, 2.0]] * 2), torch.tensor([1, 1]))
    assert values.isnan().tolist() == [True, False]


def test_a_user_can_register_a_value():
    @register_value("test_margin")
    def margin(student_logits, teacher_logits, labels):
        top = student_logits.softmax(-1).topk(2).values
        return 1 - (top[:, 0] - top[:, 1])

    try:
        assert get_value("test_margin") is margin and "test_margin" in available_values()
        with pytest.raises(ValueError, match="'test_margin' is registered already"):
            register_value("test_margin")
    finally:
        del value_module._VALUES["test_margin"]


def test_what_cannot_be_valued_is_refused():
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        prediction_entropy(torch.zeros(3))
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        get_value("entorpy")
    for name in NAMES:
        needs_teacher = name in ("kd_divergence", "disagreement")
        with pytest.raises(ValueError, match=f"{name}.*teacher") if needs_teacher else nullcontext():
            assert get_value(name)(torch.zeros(2, 3), None, torch.tensor([0, 1])).shape == (2,)


def test_random_scores_are_uniform_and_drawn_from_seed_and_epoch_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = random_scores(100_000, seed=3, epoch=1)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(99)
    assert torch.equal(first, random_scores(100_000, seed=3, epoch=1))
    assert first.dtype == torch.float64
    for other in (random_scores(100_000, 3, 41), random_scores(100_000, 4, 1), random_scores(100_000, 1, 3)):
        # Two independent draws correlate by 1 / sqrt(100000) = 0.003.
        assert abs(np.corrcoef(first.numpy(), other.numpy())[0, 1]) < 0.02
    # Chi-square with 99 degrees of freedom: mean 99, standard deviation 14.
    counts = np.histogram(first.numpy(), bins=100, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 170
