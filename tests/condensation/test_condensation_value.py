"""Eq. 7 against NumPy in float64, its behaviour at the edges of every dtype, and the registry of values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.condensation import available_values, get_value, prediction_entropy, random_scores, register_value

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def plain_logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape) * 3


def test_entropy_is_eq_7():
    logits = plain_logits(64, 100)
    p = softmax(logits)
    expected = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(prediction_entropy(torch.from_numpy(logits)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(prediction_entropy(torch.from_numpy(logits).float()).numpy(), expected, rtol=1e-5)


def test_entropy_runs_from_zero_to_log_c():
    logits = torch.tensor([[0.0] * 8, [100.0] + [0.0] * 7, [7.0, 7.0] + [-200.0] * 6], dtype=torch.float64)
    np.testing.assert_allclose(prediction_entropy(logits).numpy(), [math.log(8), 0, math.log(2)], atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_in_float32_and_float64_stays(dtype):
    logits = torch.from_numpy(plain_logits(16, 10)).to(dtype)
    entropy = prediction_entropy(logits)
    assert entropy.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    p = softmax(logits.double().numpy())
    np.testing.assert_allclose(entropy.numpy(), -(p * np.log(p)).sum(-1), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_entropy_is_finite_for_every_finite_logit(dtype, data):
    largest = torch.finfo(dtype).max
    edges = st.sampled_from([largest, -largest, torch.finfo(dtype).tiny, 0.0, 17.5, -17.5, 103.0, -104.0])
    size = data.draw(st.integers(1, 6))
    row = data.draw(st.lists(edges | st.floats(-largest, largest), min_size=size, max_size=size))
    entropy = prediction_entropy(torch.tensor([row], dtype=torch.float64).to(dtype).clamp(-largest, largest))
    assert entropy.isfinite().all()
    assert (entropy >= 0).all()
    assert (entropy <= math.log(size) + 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_opposite_extremes_and_equal_maxima(dtype):
    largest = torch.finfo(dtype).max
    logits = torch.tensor([[largest, -largest], [largest, largest], [-largest, -largest]], dtype=dtype)
    np.testing.assert_allclose(prediction_entropy(logits).double().numpy(), [0, math.log(2), math.log(2)], atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", sorted(set(available_values()) - {"random"}))
def test_broken_logits_are_seen_and_only_in_their_row(name, bad):
    student = torch.tensor([[bad, 0.0, 1.0], [1.0, 2.0, 3.0]])
    values = get_value(name)(student, torch.tensor([[0.0, 1.0, 2.0]] * 2), torch.tensor([1, 1]))
    assert values.isnan().tolist() == [True, False]


def test_logits_must_be_rows():
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        prediction_entropy(torch.zeros(3))


def test_entropy_ranks_the_doubtful_points_first():
    sure, doubtful = [9.0, 0.0, 0.0], [1.0, 0.9, 0.8]
    entropy = prediction_entropy(torch.tensor([sure, doubtful]))
    assert entropy[1] > entropy[0]


def test_registered_values_are_their_formulas():
    student, teacher = plain_logits(32, 20, seed=1), plain_logits(32, 20, seed=2)
    labels = np.random.default_rng(3).integers(0, 20, 32)
    p_s, p_t = softmax(student), softmax(teacher)
    expected = {
        "entropy": -(p_s * np.log(p_s)).sum(-1),
        "cross_entropy": -np.log(p_s[np.arange(32), labels]),
        "kd_divergence": (p_t * np.log(p_t / p_s)).sum(-1),
        "disagreement": np.abs(p_s - p_t).sum(-1) / 2,
    }
    assert available_values() == sorted([*expected, "random"])
    for name, formula in expected.items():
        values = get_value(name)(*map(torch.from_numpy, (student, teacher, labels)))
        np.testing.assert_allclose(values.numpy(), formula, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("name", ["entropy", "cross_entropy", "kd_divergence", "disagreement"])
def test_values_carry_no_gradient_and_stay_finite_at_extremes(name):
    largest = torch.finfo(torch.float32).max
    student = torch.tensor([[largest, -largest], [1.0, 2.0]], requires_grad=True)
    values = get_value(name)(student, torch.tensor([[-largest, largest], [1.0, 2.0]]), torch.tensor([1, 0]))
    assert not values.requires_grad
    assert values.isfinite().all()


def test_disagreement_of_opposite_certainties_is_one():
    values = get_value("disagreement")(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]]), torch.tensor([0]))
    assert values.item() == 1.0


@pytest.mark.parametrize("name", ["entropy", "cross_entropy"])
def test_training_without_a_teacher_has_values(name):
    assert get_value(name)(torch.zeros(2, 3), None, torch.tensor([0, 1])).shape == (2,)


@pytest.mark.parametrize("name", ["kd_divergence", "disagreement"])
def test_values_that_need_a_teacher_say_so(name):
    with pytest.raises(ValueError, match=f"{name}.*teacher"):
        get_value(name)(torch.zeros(2, 3), None, torch.tensor([0, 1]))


def test_a_user_can_register_a_value():
    from hf_kcd.condensation import value

    @register_value("test_margin")
    def margin(student_logits, teacher_logits, labels):
        top = student_logits.softmax(-1).topk(2).values
        return 1 - (top[:, 0] - top[:, 1])

    try:
        assert get_value("test_margin") is margin
        assert "test_margin" in available_values()
        with pytest.raises(ValueError, match="'test_margin' is registered already"):
            register_value("test_margin")
    finally:
        del value._VALUES["test_margin"]


def test_unknown_value_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'entropy'"):
        get_value("entorpy")


def test_random_is_drawn_anew_at_each_selection_from_seed_and_epoch_alone():
    assert get_value("random") is get_value("entropy"), "the record shows the entropy, and the ranking ignores it"
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = random_scores(50_000, seed=3, epoch=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(99)
    assert torch.equal(first, random_scores(50_000, seed=3, epoch=1))
    assert first.dtype == torch.float64
    assert first.shape == (50_000,)
    others = [random_scores(50_000, 3, 41), random_scores(50_000, 4, 1), random_scores(50_000, 1, 3)]
    for other in others:
        # Two independent draws correlate by 1 / sqrt(50000) = 0.0045.
        assert abs(np.corrcoef(first.numpy(), other.numpy())[0, 1]) < 0.03


def test_random_is_uniform():
    counts = np.histogram(random_scores(100_000, 0, 1).numpy(), bins=100, range=(0, 1))[0]
    # Chi-square with 99 degrees of freedom: mean 99, standard deviation 14.
    assert ((counts - 1000) ** 2 / 1000).sum() < 170
