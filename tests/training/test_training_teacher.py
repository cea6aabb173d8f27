"""The teacher only teaches: never trained, never saved, never in train mode; it sees images as it was trained on."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import PAPER, losses, make_trainer, network, run_training
from transformers.utils.logging import warning_once

from hf_kcd.methods import DistillationMethod, register_method
from hf_kcd.models import ImageConfig
from hf_kcd.training.model import DistillationModel
from hf_kcd.training.teacher_images import TeacherImages

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@register_method("test_reads_preactivations")
class ReadsPreactivations(DistillationMethod):
    """The mean square distance of the last pre-activations, through a layer built from the specs."""

    student_reads = teacher_reads = frozenset({"preactivations"})

    def __init__(self, student, teacher, num_points):
        super().__init__(student, teacher, num_points)
        self.adapter = torch.nn.Conv2d(student.preactivation_channels[-1], teacher.preactivation_channels[-1], 1)
        self.counts = []

    def forward(self, student, teacher, batch):
        self.counts.append((len(student.preactivations), len(teacher.preactivations)))
        adapted = self.adapter(student.preactivations[-1])
        size = (adapted.shape[-2:], teacher.preactivations[-1].shape[-2:])
        assert size == (self.student_spec.feature_sizes[-1], self.teacher_spec.feature_sizes[-1])
        target = F.adaptive_avg_pool2d(teacher.preactivations[-1], size[0])
        return {"ce": F.cross_entropy(student.logits, batch["labels"]), "hint": F.mse_loss(adapted, target)}


def test_the_teacher_is_left_as_it_was(tmp_path):
    teacher = network(9).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = run_training(tmp_path, PAPER, teacher=teacher, num_train_epochs=2, lr_decay_epochs=[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert int(teacher.bn1.num_batches_tracked) == 0
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert trainer.teacher is teacher
    inside = {id(parameter) for parameter in trainer.model.parameters()}
    assert not inside & {id(parameter) for parameter in teacher.parameters()}
    assert trainer.model.state_dict().keys() == {f"student.{name}" for name in before}


def test_bfloat16_trains_and_values_stay_finite(tmp_path):
    trainer = run_training(tmp_path, PAPER, method="spy", bf16=True, num_train_epochs=3, lr_decay_epochs=[2])
    assert {step["teacher_logits"].dtype for step in trainer.method.steps} == {torch.bfloat16}
    assert {step["logits"].dtype for step in trainer.method.steps} == {torch.bfloat16}
    record = trainer.kcd.condenser.record
    assert record.value.isfinite().all() and (record.value > 0).all()
    assert record.num_rejected == 0
    assert losses(trainer)[-1]["loss"] < losses(trainer)[0]["loss"]


def test_the_model_moves_its_teacher_along(tmp_path):
    trainer = make_trainer(tmp_path)
    model = trainer.model.double()
    assert isinstance(model, DistillationModel)
    assert {parameter.dtype for parameter in trainer.teacher.parameters()} == {torch.float64}
    assert model(torch.randn(2, 3, 8, 8, dtype=torch.float64)).shape == (2, 4) and model.num_classes == 4
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = model.nothing_like_it


def channels(values) -> torch.Tensor:
    return torch.tensor(values).double().view(1, 3, 1, 1)


def normalized(pixels, mean, std) -> torch.Tensor:
    return (pixels - channels(mean)) / channels(std)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "teachers"), [((8, 8), (20, 12)), ((24, 16), (8, 8)), ((8, 8), (8, 8))])
def test_the_teacher_sees_the_pixels_at_its_size_and_with_its_normalization(size, teachers, interpolation):
    view = TeacherImages(ImageConfig((3, *teachers), (0.1, 0.2, 0.6), (0.5, 0.4, 0.1), interpolation), MEAN, STD)
    view.apply(torch.Tensor.double)
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shrinks = teachers[0] < size[0]
    resized = pixels if teachers == size else F.interpolate(pixels, teachers, mode=interpolation, antialias=shrinks)
    found = view(normalized(pixels, MEAN, STD))
    torch.testing.assert_close(found, normalized(resized, (0.1, 0.2, 0.6), (0.5, 0.4, 0.1)), rtol=1e-5, atol=1e-5)


def test_images_that_the_teacher_knows_pass_untouched_and_other_channels_are_refused():
    view = TeacherImages(ImageConfig((3, 8, 8), MEAN, STD, "bicubic"), MEAN, STD)
    images = torch.randn(2, 3, 8, 8)
    assert view(images) is images
    # A method may cut or enlarge the batch: the size that arrives counts.
    assert view(torch.randn(2, 3, 10, 12)).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="takes images of 1 channels and the data has 3"):
        TeacherImages(ImageConfig((1, 8, 8), (0.5,), (0.5,), "bilinear"), MEAN, STD)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_a_teacher_of_other_images_gets_them_and_the_run_says_so(tmp_path, caplog, side):
    teacher = network(9, pretrained_cfg_overlay={"input_size": (3, side, side)})
    teacher.pretrained_cfg.update(mean=(0.1, 0.2, 0.6), std=(0.5, 0.4, 0.1))
    # It is said once, and other tests have such teachers, too.
    warning_once.cache_clear()
    logger = logging.getLogger("hf_kcd")
    logger.addHandler(caplog.handler)
    try:
        trainer = make_trainer(tmp_path, method="spy", teacher=teacher, num_train_epochs=1)
    finally:
        logger.removeHandler(caplog.handler)
    how = {4: "reduced.", 8: None, 16: "enlarged, because the preprocessing keeps no more pixels."}[side]
    said = f"The teacher was trained on images of {side} x {side} and is shown the student's 8 x 8, {how}"
    assert (said in caplog.text) == (how is not None) == ("shown the student's" in caplog.text)
    trainer.train()
    reference, preprocessing = copy.deepcopy(teacher).double(), trainer.train_dataset.preprocessing
    for step in trainer.method.steps:
        pixels = step["pixel_values"].double() * channels(preprocessing.std) + channels(preprocessing.mean)
        assert pixels.shape[-1] == 8 and pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
        if side != 8:
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=side < 8)
        with torch.no_grad():
            expected = reference(normalized(pixels, (0.1, 0.2, 0.6), (0.5, 0.4, 0.1)))
        assert (step["teacher_logits"] - expected).abs().max() < 1e-3 * expected.abs().max()


def test_preactivations_of_a_timm_pair_of_other_sizes_train_a_student(tmp_path):
    student = network(name="resnet10t", channels=(8, 16, 32, 64), stem_width=8)
    teacher = network(9, name="test_resnet", pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    options = {"teacher_layers": [2, 4], "num_train_epochs": 1, "lr_decay_epochs": [], "learning_rate": 0.01}
    trainer = make_trainer(tmp_path, method="test_reads_preactivations", model=student, teacher=teacher, **options)
    before = [parameter.clone() for parameter in trainer.student.parameters()]
    trainer.train()
    assert set(trainer.method.counts) == {(4, 2)}
    after = list(trainer.student.parameters())
    assert sum(not torch.equal(one, other) for one, other in zip(before, after, strict=True)) > len(before) // 2
    lost = copy.deepcopy(trainer.model)
    ((_, read_teacher),) = lost._read_teachers
    assert lost._read_student.model is lost.student and read_teacher.model is lost.teacher


@pytest.mark.parametrize("role", ["model", "teacher"])
def test_what_a_network_does_not_hand_out_stops_the_run_before_it_starts(tmp_path, role):
    vit = network(name="vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2)
    name = {"model": "student", "teacher": "teacher"}[role]
    message = f"'test_reads_preactivations' reads preactivations of the {name}. vit_tiny_patch16_224 provides no"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, method="test_reads_preactivations", **{role: vit})


def test_layers_are_given_as_positions_or_as_a_word(tmp_path):
    for given, kept in (("stages", "stages"), (["stages"], "stages"), (["1", "-1"], [1, -1]), ([2], [2]), (3, [3])):
        trainer = make_trainer(tmp_path, method="test_reads_preactivations", student_layers=given)
        assert trainer.args.student_layers == kept
    assert trainer.method.student_spec.layers == (3,)
    with pytest.raises(ValueError, match="teacher_layers is .*'deep'.*positions such as 2 5 8, or the word 'stages'"):
        make_trainer(tmp_path, method="test_reads_preactivations", teacher_layers=["deep"])
    with pytest.raises(ValueError, match="Layer 9 of cifar_resnet8 does not exist"):
        make_trainer(tmp_path, method="test_reads_preactivations", teacher_layers=[9])
    with pytest.raises(ValueError, match="teacher_layers is .* but 'kd' reads no features"):
        make_trainer(tmp_path, teacher_layers=[1])
