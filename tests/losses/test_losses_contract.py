"""What every loss keeps: no gradient to the teacher, float32 for halves, autocast without effect, no wait for the device,
and finite values and gradients on input that has nothing to teach."""

from collections.abc import Callable

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


class Case:
    """One loss: the shapes of its student's and its teacher's tensors without the batch, and how it is called."""

    def __init__(self, student: list, teacher: list, call: Callable, rows: int = 1):
        self.student, self.teacher, self.call, self.rows = student, teacher, call, rows

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


def assert_finite(case: Case, student: list[Tensor], teacher: list[Tensor], largest_gradient: float = 1e6) -> None:
    loss, gradients = evaluate(case, student, teacher)
    assert loss.shape == () and loss.isfinite()
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient.abs().max() < largest_gradient


@pytest.mark.parametrize(
    "case",
    # ONE's target and WCoRD's transport plan are constants of the backward pass: see their own tests.
    [pytest.param(case, id=name) for name, case in CASES.items() if name not in ("one", "wcord local")],
)
def test_gradient_in_double_precision(case):
    student, teacher = case.tensors(normal(), batch=3)
    student = [tensor.requires_grad_() for tensor in student]
    assert torch.autograd.gradcheck(lambda *leaves: case.call(list(leaves), teacher, LABELS[:3]), student)


@every_loss
def test_teacher_receives_no_gradient_and_the_student_does(case):
    student, teacher = case.tensors(normal())
    student, teacher = ([tensor.requires_grad_() for tensor in tensors] for tensors in (student, teacher))
    case.call(student, teacher, LABELS).backward()
    assert all(tensor.grad is None for tensor in teacher)
    # A map of 1x1 has one place to attend to: nothing to learn from it, in AT and in NST alike, but no error either.
    assert all(tensor.grad.abs().sum() > 0 for tensor in student if tensor.shape[2:] != (1, 1))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_everything_below_double_is_computed_in_float32(case, dtype):
    student, teacher = cast(case.tensors(normal()), dtype)
    loss, gradients = evaluate(case, student, teacher)
    exact, _ = evaluate(case, [s.double() for s in student], [t.double() for t in teacher])
    assert exact.dtype == torch.float64
    assert loss.dtype in (torch.float32, torch.float64)  # VID's and OFD's parameters are double here
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-6)
    assert all(gradient.dtype == dtype for gradient in gradients)


@every_loss
def test_autocast_has_no_effect(case):
    student, teacher = cast(case.tensors(normal()), torch.float32)
    plain, gradients = evaluate(case, student, teacher)
    student = [tensor.requires_grad_() for tensor in student]
    with torch.autocast("cpu", torch.bfloat16):
        inside = case.call(student, teacher, LABELS)
    torch.testing.assert_close(inside, plain)
    torch.testing.assert_close(list(torch.autograd.grad(inside, student)), gradients)


@every_loss
def test_student_and_teacher_may_differ_in_precision(case):
    student, teacher = case.tensors(normal())
    loss, _ = evaluate(case, [s.half() for s in student], [t.float() for t in teacher])
    other, _ = evaluate(case, [s.float() for s in student], [t.bfloat16() for t in teacher])
    assert loss.isfinite() and other.isfinite()


@every_loss
def test_host_never_waits_for_values(case):
    # Fake tensors have shapes and no values: whatever asks for a value, or for as many rows as a value says, fails.
    student, teacher = case.tensors(normal())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        student, teacher = ([mode.from_tensor(tensor) for tensor in tensors] for tensors in (student, teacher))
        student = [tensor.requires_grad_() for tensor in student]
        torch.autograd.grad(case.call(student, teacher, mode.from_tensor(LABELS)), student)


@every_loss
@pytest.mark.parametrize("batch", [1, 2])
def test_finite_for_few_points(case, batch):
    assert_finite(case, *case.tensors(normal(), batch=batch))


@every_loss
@pytest.mark.parametrize("sides", ["student", "teacher", "both"])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_for_constant_tensors(case, sides, value, dtype):
    """Equal rows, constant maps, zero features: no direction, no distance, no spread."""
    make = normal()

    def constant(shape: tuple) -> Tensor:
        return torch.full(shape, value)

    student, teacher = (
        [(constant if sides in (side, "both") else make)(tensor.shape).to(dtype) for tensor in tensors]
        for side, tensors in zip(("student", "teacher"), case.tensors(make), strict=True)
    )
    assert_finite(case, student, teacher)


@every_loss
def test_finite_for_two_equal_rows(case):
    student, teacher = case.tensors(normal())
    for tensor in student:
        tensor[1] = tensor[0]
    assert_finite(case, student, teacher)
    for tensor in teacher:
        tensor[2] = tensor[0]
    assert_finite(case, student, teacher)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_extreme_values(case, dtype):
    generator = torch.Generator().manual_seed(0)
    for extreme in (1e4, 6e4):
        student, teacher = case.tensors(
            lambda shape, x=extreme: (x * (torch.randint(0, 3, shape, generator=generator) - 1)).to(dtype)
        )
        loss, _ = evaluate(case, student, teacher)
        assert loss.isfinite()
        # In half precision itself a sum of squares' gradient may be beyond the dtype: what is checked is float32's.
        _, gradients = evaluate(case, [s.float() for s in student], teacher)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "name", ["at", "nst", "fsp", "hcl", "sp", "rkd", "pkt", "cc", "ft", "hint", "kd", "dkd", "dml"]
)
def test_nothing_is_lost_where_student_equals_teacher(name):
    case = CASES[name]
    student, _ = case.tensors(normal())
    teacher = student * (len(case.teacher) // len(student))
    assert case.call(student, teacher, LABELS).item() == pytest.approx(0, abs=1e-14)


LISTS = {
    "at": losses.at_loss,
    "nst": losses.nst_loss,
    "fsp": losses.fsp_loss,
    "hcl": losses.hcl_loss,
    "ab": losses.ab_loss,
    "ofd": lambda student, teacher: losses.ofd_loss(student, teacher, margins(student)),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_different_lengths_are_refused_naming_counts_and_shapes(name):
    student = [torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 4, 4)]
    with pytest.raises(ValueError, match=r"2 maps \[\[2, 4, 8, 8\], \[2, 4, 4, 4\]\].*3 \["):
        LISTS[name](student, [*student, torch.zeros(2, 4, 2, 2)])
    with pytest.raises(ValueError, match="0 maps"):
        LISTS[name]([], [])


@pytest.mark.parametrize("name", LISTS)
def test_maps_of_other_points_are_refused_naming_the_stage(name):
    student = [torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 4, 4)]
    with pytest.raises(ValueError, match=r"stage 1 has shape \[2, 4, 4, 4\].*\[3, 4, 4, 4\].*same B points"):
        LISTS[name](student, [student[0], torch.zeros(3, 4, 4, 4)])
    with pytest.raises(ValueError, match="stage 0"):
        LISTS[name](torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8))  # a map where a list of maps belongs


@pytest.mark.parametrize("name", ["fsp", "hcl", "ab", "ofd"])
def test_channels_that_must_be_equal_and_are_not_are_refused_naming_the_stage(name):
    student = [torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 4, 4)]
    with pytest.raises(ValueError, match=r"stage 1 has shape \[2, 4, 4, 4\].*\[2, 6, 4, 4\].*adapter"):
        LISTS[name](student, [student[0], torch.zeros(2, 6, 4, 4)])


@pytest.mark.parametrize("call", [losses.hint_loss, lambda s, t: losses.vid_loss(s, torch.zeros(4), t)])
def test_single_features_are_checked_alike(call):
    with pytest.raises(ValueError, match="adapter"):
        call(torch.zeros(2, 4, 8, 8), torch.zeros(2, 6, 8, 8))
    with pytest.raises(ValueError, match="same B points"):
        call(torch.zeros(2, 4, 8, 8), torch.zeros(3, 4, 8, 8))


@pytest.mark.parametrize("name", ["rkd", "pkt", "cc", "wcord_local"])
def test_embeddings_of_other_points_are_refused(name):
    loss = getattr(losses, f"{name}_loss")
    with pytest.raises(ValueError, match=r"\[4, 6\].*\[3, 6\]"):
        loss(torch.zeros(4, 6), torch.zeros(3, 6))
    with pytest.raises(ValueError, match="B, D"):
        loss(torch.zeros(4, 6, 1, 1), torch.zeros(4, 6, 1, 1))


@pytest.mark.parametrize("name", ["cc", "wcord_local"])
def test_embeddings_compared_entry_by_entry_must_be_of_one_width(name):
    with pytest.raises(ValueError, match="one width"):
        getattr(losses, f"{name}_loss")(torch.zeros(4, 6), torch.zeros(4, 9))


@pytest.mark.parametrize("name", ["cc", "wcord_local"])
def test_a_trainable_projection_of_the_teacher_can_receive_a_gradient(name):
    student, teacher = (normal(seed)((4, 6)).requires_grad_() for seed in (0, 1))
    getattr(losses, f"{name}_loss")(student, teacher, detach_teacher=False).backward()
    assert teacher.grad.abs().sum() > 0


def test_every_loss_is_listed():
    assert losses.__all__ == sorted(losses.__all__)
    assert {name for name in dir(losses) if name.endswith(("_loss", "_losses"))} <= set(losses.__all__)
