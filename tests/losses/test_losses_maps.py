"""The losses on feature maps (hint, AT, NST, FSP, HCL, FT, AB, VID): their formulas, written out in loops."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.losses import ab_loss, at_loss, fsp_loss, ft_loss, hcl_loss, hint_loss, nst_loss, vid_loss

STUDENT = [(3, 4, 8, 8), (3, 5, 8, 8), (3, 6, 4, 4)]
TEACHER = [(3, 7, 8, 8), (3, 5, 4, 4), (3, 9, 8, 8)]
SAME = [(3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 8, 8)]


def some(shapes: list, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


def tensors(maps: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(m) for m in maps]


def pool(m: np.ndarray, size: int) -> np.ndarray:
    """Average blocks, for sizes that divide."""
    block = m.shape[2] // size
    return m.reshape(*m.shape[:2], size, block, size, block).mean((3, 5))


def to_smaller(s: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = min(s.shape[2], t.shape[2])
    return pool(s, size), pool(t, size)


def attention(m: np.ndarray) -> np.ndarray:
    flat = (m**2).mean(1).reshape(len(m), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def test_hint():
    (s,), (t,) = some(STUDENT[:1]), some([(3, 4, 4, 4)], 1)
    assert hint_loss(*tensors([s, t])).item() == pytest.approx(((pool(s, 4) - t) ** 2).mean(), rel=1e-12)


def test_at():
    student, teacher = some(STUDENT), some(TEACHER, 1)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        q_s, q_t = map(attention, to_smaller(s, t))
        expected += ((q_s - q_t) ** 2).sum() / q_s.size
    assert at_loss(tensors(student), tensors(teacher)).item() == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_nst(channels_s, channels_t, size, seed):
    """Both ways of computing it, through positions and through channels, against the kernel written out."""
    (s,), (t,) = some([(2, channels_s, size, size)], seed), some([(2, channels_t, 4, 4)], seed + 1)
    expected = 0.0
    for a, b in zip(*to_smaller(s, t), strict=True):
        a, b = a.reshape(channels_s, -1), b.reshape(channels_t, -1)
        a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))

        def kernel(first, second):
            return np.mean([(x @ y) ** 2 for x in first for y in second])

        expected += (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)) / len(s)
    one = nst_loss(tensors([s]), tensors([t]))
    assert one.item() == pytest.approx(expected, abs=1e-12)
    # Network stages add up.
    assert nst_loss(tensors([s, s]), tensors([t, t])).item() == pytest.approx(2 * expected, abs=1e-12)


def flows(maps: list[np.ndarray]) -> list[np.ndarray]:
    result = []
    for lower, upper in pairwise(maps):
        lower, upper = to_smaller(lower, upper)
        flow = np.zeros((len(lower), upper.shape[1], lower.shape[1]))
        for row in range(lower.shape[2]):
            for column in range(lower.shape[3]):
                flow += upper[:, :, None, row, column] * lower[:, None, :, row, column]
        result.append(flow / lower.shape[2] / lower.shape[3])
    return result


def test_fsp():
    student, teacher = some(SAME), some([(3, 4, 4, 4), (3, 5, 8, 8), (3, 6, 2, 2)], 1)
    expected = sum(((f - g) ** 2).mean() for f, g in zip(flows(student), flows(teacher), strict=True))
    assert fsp_loss(tensors(student), tensors(teacher)).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="at least two"):
        fsp_loss([torch.zeros(2, 4, 8, 8)], [torch.zeros(2, 4, 8, 8)])


def test_hcl():
    student = some([(3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 1, 1)])
    teacher = some([(3, 4, 8, 8), (3, 5, 8, 8), (3, 6, 1, 1)], 1)
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        s, t = to_smaller(s, t)
        loss, total = ((s - t) ** 2).mean(), 1.0
        for weight, size in zip((1 / 2, 1 / 4, 1 / 8), [l for l in (4, 2, 1) if l < s.shape[2]], strict=False):  # noqa: E741
            loss += weight * ((pool(s, size) - pool(t, size)) ** 2).mean()
            total += weight
        expected += loss / total
    assert hcl_loss(tensors(student), tensors(teacher)).item() == pytest.approx(expected, rel=1e-12)


def test_ft():
    (s,), (t,) = some([(3, 4, 8, 8)]), some([(3, 7, 4, 4)], 1)
    expected = np.abs(attention(pool(s, 4)) - attention(t)).mean()
    assert ft_loss(*tensors([s, t])).item() == pytest.approx(expected, rel=1e-12)
    # The paper's form keeps the channels.
    s, t = some([(3, 4, 4, 4)] * 2)
    s, t = (m / np.linalg.norm(m.reshape(3, -1), axis=1)[:, None, None, None] for m in (s, t))
    expected = np.abs(s - t).mean()
    assert ft_loss(*tensors([s, t]), channel_mean=False).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="adapt"):
        ft_loss(torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 8, 8), channel_mean=False)


@pytest.mark.parametrize("margin", [1.0, 0.25])
def test_ab(margin):
    student, teacher = some(SAME), some(SAME, 1)
    expected = 0.0
    for stage, (s, t) in enumerate(zip(student, teacher, strict=True)):
        cost = 0.0
        for a, b in zip(s.flat, t.flat, strict=True):
            if b <= 0 and a > -margin:
                cost += (a + margin) ** 2
            if b > 0 and a <= margin:
                cost += (a - margin) ** 2
        expected += 2.0 ** (stage - 3 + 1) * cost / len(s) / 1000 * 3
    assert ab_loss(tensors(student), tensors(teacher), margin).item() == pytest.approx(expected, rel=1e-12)


def test_ab_by_hand():
    # Off at 0.5: (0.5 + 1)^2. On at 0.5: (0.5 - 1)^2. On at 2: beyond the margin. Off at exactly 0 counts as off.
    student = torch.tensor([[0.5, 0.5, 2.0, -1.0]])
    teacher = torch.tensor([[-1.0, 1.0, 1.0, 0.0]])
    assert ab_loss([student], [teacher]).item() == pytest.approx(0.003 * (2.25 + 0.25))


def test_vid():
    s, t = some([(3, 4, 8, 8), (3, 4, 4, 4)])
    scale = np.array([-20.0, -1.0, 0.5, 800.0])
    variance = np.maximum(scale, 0) + np.log1p(np.exp(-np.abs(scale))) + 1e-5
    difference = pool(s, 4) - t
    expected = np.mean([0.5 * (difference[:, c] ** 2 / v + np.log(v)) for c, v in enumerate(variance)])
    loss = vid_loss(torch.from_numpy(s), torch.from_numpy(scale), torch.from_numpy(t))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    # Every channel trains its scale.
    scale = torch.tensor([-900.0, -1.0, 1.0, 900.0], dtype=torch.float64, requires_grad=True)
    vid_loss(torch.from_numpy(s), scale, torch.from_numpy(t)).backward()
    assert scale.grad.isfinite().all() and (scale.grad[1:] != 0).all()
    with pytest.raises(ValueError, match=r"\[3\].*\[2, 4, 8, 8\]"):
        vid_loss(torch.zeros(2, 4, 8, 8), torch.zeros(3), torch.zeros(2, 4, 8, 8))


def test_maps_that_are_not_square_are_pooled_in_height_and_in_width():
    (s,), (t,) = some([(3, 4, 8, 4)]), some([(3, 4, 4, 8)], 1)
    pooled_s = s.reshape(3, 4, 4, 2, 4).mean(3)
    pooled_t = t.reshape(3, 4, 4, 4, 2).mean(4)
    assert hint_loss(*tensors([s, t])).item() == pytest.approx(((pooled_s - pooled_t) ** 2).mean(), rel=1e-12)
