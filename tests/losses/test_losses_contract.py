"""Every loss: gradients, half precision, autocast, no wait for the device, degenerate input, and errors with shapes."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_kcd import losses

BATCH, CLASSES, WIDTH = 4, 5, 6
LABELS = torch.tensor([3, 0, 4, 1])
MAPS = [(4, 8, 8), (6, 4, 4), (6, 1, 1)]
WIDER = [(3, 4, 4), (5, 4, 4), (7, 1, 1)]
EQUAL_CHANNELS = [(4, 4, 4), (6, 8, 8), (6, 1, 1)]


class Case(NamedTuple):
    """One loss: the shapes of the student's and the teacher's tensors without the batch, and the call."""

    student: list
    teacher: list
    call: Callable
    rows: int = 1

    def tensors(self, make: Callable, batch: int = BATCH) -> tuple[list[Tensor], list[Tensor]]:
        rows = batch * self.rows
        return [make((rows, *shape)) for shape in self.student], [make((rows, *shape)) for shape in self.teacher]


def margins(features: list[Tensor]) -> list[Tensor]:
    return [torch.full((feature.shape[1],), -0.3, dtype=torch.float64) for feature in features]


LOGITS, EMBEDDING, FEATURE = (CLASSES,), (WIDTH,), (4, 8, 8)

CASES = {
    "kd": Case([LOGITS], [LOGITS], lambda s, t, y: losses.kd_loss(s[0], t[0])),
    "dkd": Case([LOGITS], [LOGITS], lambda s, t, y: losses.dkd_loss(s[0], t[0], y)),
    "hint": Case([FEATURE], [(4, 5, 3)], lambda s, t, y: losses.hint_loss(s[0], t[0])),
    "hint vectors": Case([EMBEDDING], [EMBEDDING], lambda s, t, y: losses.hint_loss(s[0], t[0])),
    "at": Case(MAPS, WIDER, lambda s, t, y: losses.at_loss(s, t)),
    "nst": Case(MAPS, WIDER, lambda s, t, y: losses.nst_loss(s, t)),
    "fsp": Case(MAPS, EQUAL_CHANNELS, lambda s, t, y: losses.fsp_loss(s, t)),
    "hcl": Case(MAPS, EQUAL_CHANNELS, lambda s, t, y: losses.hcl_loss(s, t)),
    "sp": Case([FEATURE], [(7, 4, 4)], lambda s, t, y: losses.sp_loss(s[0], t[0])),
    "vid": Case(
        [FEATURE], [(4, 4, 4)], lambda s, t, y: losses.vid_loss(s[0], torch.linspace(-3, 3, 4).double(), t[0])
    ),
    "rkd": Case([EMBEDDING], [(9,)], lambda s, t, y: losses.rkd_loss(s[0], t[0])),
    "pkt": Case([EMBEDDING], [(9,)], lambda s, t, y: losses.pkt_loss(s[0], t[0])),
    "cc": Case([EMBEDDING], [EMBEDDING], lambda s, t, y: losses.cc_loss(s[0], t[0])),
    "ft": Case([FEATURE], [(3, 4, 4)], lambda s, t, y: losses.ft_loss(s[0], t[0])),
    "ft whole": Case([FEATURE], [(4, 4, 4)], lambda s, t, y: losses.ft_loss(s[0], t[0], channel_mean=False)),
    "ab": Case(MAPS, EQUAL_CHANNELS, lambda s, t, y: losses.ab_loss(s, t)),
    "ofd": Case(MAPS, EQUAL_CHANNELS, lambda s, t, y: losses.ofd_loss(s, t, margins(s))),
    "crd": Case([(9,), (9,)], [], lambda s, t, y: losses.crd_loss(s[0].abs(), s[1].abs(), 50)),
    "wcord global": Case([(9,)], [], lambda s, t, y: losses.wcord_global_loss(s[0])),
    "wcord local": Case([EMBEDDING], [EMBEDDING], lambda s, t, y: losses.wcord_local_loss(s[0], t[0])),
    "sskd": Case(
        [LOGITS, EMBEDDING],
        [LOGITS, (9,)],
        lambda s, t, y: sum(losses.sskd_losses(s[0], t[0], s[1], t[1], y).values()),
        rows=4,
    ),
    "dml": Case([LOGITS], [LOGITS, LOGITS], lambda s, t, y: losses.dml_loss(s[0], t)),
    "one": Case([LOGITS, LOGITS, LOGITS], [], lambda s, t, y: losses.one_loss(s[:2], s[2], y)),
    "slkd": Case([LOGITS], [LOGITS, LOGITS, LOGITS], lambda s, t, y: losses.slkd_loss(s[0], t[0], t[1:], y)),
}
every_loss = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


def normal(seed: int = 0, scale: float = 1.0) -> Callable:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def cast(sides: tuple[list[Tensor], list[Tensor]], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    return tuple([tensor.to(dtype) for tensor in tensors] for tensors in sides)


def evaluate(case: Case, student: list[Tensor], teacher: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The loss and the gradients of the student's tensors."""
    student = [tensor.clone().requires_grad_() for tensor in student]
    num_rows = len(student[0]) // case.rows
    loss = case.call(student, teacher, LABELS[:num_rows])
    return loss, list(torch.autograd.grad(loss, student))


def assert_finite(case: Case, student: list[Tensor], teacher: list[Tensor]) -> None:
    loss, gradients = evaluate(case, student, teacher)
    assert loss.shape == () and loss.isfinite()
    assert all(gradient.isfinite().all() and gradient.abs().max() < 1e6 for gradient in gradients)


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"one", "wcord local"}))
def test_gradient_in_double_precision(name):
    # ONE's target and WCoRD's transport plan are constants of the backward pass: see their own tests.
    student, teacher = CASES[name].tensors(normal(), batch=3)
    student = [tensor.requires_grad_() for tensor in student]
    loss = lambda *leaves: CASES[name].call(list(leaves), teacher, LABELS[:3])  # noqa: E731
    assert torch.autograd.gradcheck(loss, student, fast_mode=True)


@every_loss
def test_teacher_receives_no_gradient_and_the_student_does(case):
    student, teacher = ([tensor.requires_grad_() for tensor in tensors] for tensors in case.tensors(normal()))
    case.call(student, teacher, LABELS).backward()
    assert all(tensor.grad is None for tensor in teacher)
    # A map of 1x1 has a single position: AT and NST learn nothing from it, without an error.
    assert all(tensor.grad.abs().sum() > 0 for tensor in student if tensor.shape[2:] != (1, 1))


@every_loss
def test_lower_precisions_are_computed_in_float32_with_and_without_autocast(case):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        student, teacher = cast(case.tensors(normal()), dtype)
        loss, gradients = evaluate(case, student, teacher)
        exact, _ = evaluate(case, *cast((student, teacher), torch.float64))
        assert exact.dtype == torch.float64
        assert loss.dtype in (torch.float32, torch.float64)  # VID's and OFD's parameters are double here
        assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6)
        assert all(gradient.dtype == dtype for gradient in gradients)
    leaves = [tensor.requires_grad_() for tensor in student]
    with torch.autocast("cpu", torch.bfloat16):
        inside = case.call(leaves, teacher, LABELS)
    torch.testing.assert_close([inside, *torch.autograd.grad(inside, leaves)], [loss, *gradients])
    for one, other in ((torch.float16, torch.float32), (torch.float32, torch.bfloat16)):
        student, teacher = [s.detach().to(one) for s in student], [t.to(other) for t in teacher]
        mixed, _ = evaluate(case, student, teacher)
        exact, _ = evaluate(case, *cast((student, teacher), torch.float64))
        assert mixed.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6)


@every_loss
def test_host_never_waits_for_values(case):
    # Fake tensors have shapes and no values: reading a value, or selecting a number of rows that depends on one, fails.
    student, teacher = case.tensors(normal())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        student, teacher = ([mode.from_tensor(tensor) for tensor in tensors] for tensors in (student, teacher))
        student = [tensor.requires_grad_() for tensor in student]
        torch.autograd.grad(case.call(student, teacher, mode.from_tensor(LABELS)), student)


@every_loss
def test_finite_for_few_equal_and_constant_rows(case):
    """Equal rows, constant maps and zero features have no direction, no distance and no spread."""
    for batch in (1, 2):
        assert_finite(case, *case.tensors(normal(), batch=batch))
    student, teacher = case.tensors(normal())
    zeros, ones = ([[torch.full_like(t, value) for t in side] for side in (student, teacher)] for value in (0.0, 1.0))
    for constant in (zeros, ones):
        for sides in ((constant[0], teacher), (student, constant[1]), constant):
            for dtype in (torch.float32, torch.float64):
                assert_finite(case, *cast(sides, dtype))
    for tensor in student:
        tensor[1] = tensor[0]
    assert_finite(case, student, teacher)
    for tensor in teacher:
        tensor[2] = tensor[0]
    assert_finite(case, student, teacher)


@every_loss
def test_finite_for_extreme_values(case):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        generator = torch.Generator().manual_seed(0)
        for extreme in (1e4, 6e4):
            student, teacher = case.tensors(
                lambda shape, x=extreme: (x * (torch.randint(0, 3, shape, generator=generator) - 1)).to(dtype)  # noqa: B023
            )
            assert evaluate(case, student, teacher)[0].isfinite()
            # A sum of squares' gradient may overflow half precision; float32 holds it.
            _, gradients = evaluate(case, [s.float() for s in student], teacher)
            assert all(gradient.isfinite().all() for gradient in gradients)


@every_loss
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_for_the_largest_float16_everywhere(case, sign):
    # 65504 squared is beyond float16, and a sum over a map's positions far beyond.
    student, teacher = case.tensors(lambda shape: torch.full(shape, 65504.0, dtype=torch.float16))
    teacher = [sign * tensor for tensor in teacher]
    for autocast in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            assert evaluate(case, student, teacher)[0].isfinite()


@pytest.mark.parametrize(
    "name", ["at", "nst", "fsp", "hcl", "sp", "rkd", "pkt", "cc", "ft", "hint", "kd", "dkd", "dml"]
)
def test_loss_is_zero_if_student_equals_teacher(name):
    case = CASES[name]
    student, _ = case.tensors(normal())
    teacher = student * (len(case.teacher) // len(student))
    assert case.call(student, teacher, LABELS).item() == pytest.approx(0, abs=1e-14)


LISTS = {
    **{name: getattr(losses, f"{name}_loss") for name in ("at", "nst", "fsp", "hcl", "ab")},
    "ofd": lambda student, teacher: losses.ofd_loss(student, teacher, margins(student)),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_maps_that_do_not_fit_are_refused_by_count_shape_and_stage(name):
    loss, first = LISTS[name], torch.zeros(2, 4, 8, 8)
    student = [first, torch.zeros(2, 4, 4, 4)]
    with pytest.raises(ValueError, match=r"maps are \[\[2, 4, 8, 8\], \[2, 4, 4, 4\]\].*equally many"):
        loss(student, [*student, torch.zeros(2, 4, 2, 2)])
    with pytest.raises(ValueError, match="at least one"):
        loss([], [])
    with pytest.raises(ValueError, match=r"stage 1 has shape \[2, 4, 4, 4\].*\[3, 4, 4, 4\].*same B points"):
        loss(student, [first, torch.zeros(3, 4, 4, 4)])
    with pytest.raises(ValueError, match="stage 0"):
        loss(first, first)  # a map instead of a list of maps
    if name not in ("at", "nst"):
        with pytest.raises(ValueError, match=r"stage 1 has shape \[2, 4, 4, 4\].*\[2, 6, 4, 4\].*adapt"):
            loss(student, [first, torch.zeros(2, 6, 4, 4)])


@pytest.mark.parametrize("call", [losses.hint_loss, lambda s, t: losses.vid_loss(s, torch.zeros(4), t)])
def test_single_features_that_do_not_fit_are_refused(call):
    with pytest.raises(ValueError, match="adapt"):
        call(torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 8, 8))
    with pytest.raises(ValueError, match="same B points"):
        call(torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8))


@pytest.mark.parametrize("name", ["rkd", "pkt", "cc", "wcord_local"])
def test_embeddings_that_do_not_fit_are_refused(name):
    loss = getattr(losses, f"{name}_loss")
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[3, 6\]"):
        loss(torch.zeros(4, 6), torch.zeros(3, 6))
    with pytest.raises(ValueError, match="B, D"):
        loss(torch.zeros(4, 6, 1, 1), torch.zeros(4, 6, 1, 1))
    if name in ("cc", "wcord_local"):
        with pytest.raises(ValueError, match="one width"):
            loss(torch.zeros(4, 6), torch.zeros(4, 9))
        # A projection of the teacher's embedding may train.
        student, teacher = (normal(seed)((4, 6)).requires_grad_() for seed in (0, 1))
        loss(student, teacher, detach_teacher=False).backward()
        assert teacher.grad.abs().sum() > 0
