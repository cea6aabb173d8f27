"""The teacher only teaches: never trained, never saved, never in train mode; it sees images as it was trained on."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import PAPER, RECIPE, Before, Spy, losses, make_trainer, network, run_training
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


def state_of(network: torch.nn.Module) -> dict:
    """All that a network is: its values, where and how they lie, its modes, its flags, its hooks, its configuration."""
    modules = dict(network.named_modules())
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {
        "values": {name: tensor.tolist() for name, tensor in network.state_dict().items()},
        "layout": {
            name: (t.data_ptr(), t.stride(), t.dtype, t.device, t.requires_grad) for name, t in tensors.items()
        },
        "flags": {
            name: {key: value for key, value in vars(module).items() if isinstance(value, bool)}
            for name, module in modules.items()
        },
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in modules.items()},
        "pretrained_cfg": copy.deepcopy(network.pretrained_cfg),
    }


@pytest.mark.parametrize("method", ["kd", "ofd", "reviewkd", "slkd"])
def test_a_teacher_comes_back_as_it_was_handed_in(tmp_path, method):
    torch.manual_seed(9)
    options = {"pretrained_cfg_overlay": {"input_size": (3, 32, 32)}} if method != "slkd" else {}
    teacher = network(9, name="test_resnet" if method == "ofd" else "cifar_resnet8", **options).train()
    teacher.layer1.eval()
    teacher.layer2.requires_grad_(False)
    before = state_of(teacher)
    trainer = make_trainer(tmp_path, method=method, teacher=teacher, num_train_epochs=1, lr_decay_epochs=[])
    assert trainer.teacher is teacher and state_of(teacher) == before
    seen = []
    trainer.add_callback(Before(2, lambda: seen.append([teacher.training, teacher.fc.weight.requires_grad])))
    trainer.train()
    assert seen == [[False, False]] and state_of(teacher) == before
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
    inside = {id(parameter) for parameter in trainer.model.parameters()}
    assert not inside & {id(parameter) for parameter in teacher.parameters()}
    assert all(name.startswith(("student.", "method.")) for name in trainer.model.state_dict())
    # Also when the training breaks off.
    trainer.add_callback(Before(3, lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert state_of(teacher) == before


def test_a_teacher_that_changes_meanwhile_teaches_and_keeps_what_it_became(tmp_path):
    teacher = network(9).eval()

    def forget() -> None:
        with torch.no_grad():
            for weight in teacher.parameters():
                weight.zero_()

    trainer = run_training(tmp_path, callbacks=[Before(3, forget)], method="spy", teacher=teacher, num_train_epochs=1)
    constant = [bool((step["teacher_logits"] == 0).all()) for step in trainer.method.steps]
    assert constant == [False] * 3 + [True] * 3
    assert all(not weight.any() and weight.is_contiguous() for weight in teacher.parameters())


def test_a_half_precision_teacher_teaches_a_student_of_full_precision(tmp_path):
    teacher = network(9).bfloat16()
    for number, method in enumerate(("kd", "reviewkd", "rkd")):
        trainer = run_training(tmp_path / str(number), method=method, teacher=teacher, num_train_epochs=1)
        assert losses(trainer)[-1]["loss"] < 1e3
    assert {weight.dtype for weight in teacher.parameters()} == {torch.bfloat16}


def test_bfloat16_trains_and_values_stay_finite(tmp_path):
    trainer = run_training(tmp_path, PAPER, method="spy", bf16=True, num_train_epochs=3, lr_decay_epochs=[2])
    assert {step["teacher_logits"].dtype for step in trainer.method.steps} == {torch.bfloat16}
    assert {step["logits"].dtype for step in trainer.method.steps} == {torch.bfloat16}
    record = trainer.kcd.condenser.record
    assert record.value.isfinite().all() and (record.value > 0).all()
    assert record.num_rejected == 0
    assert losses(trainer)[-1]["loss"] < losses(trainer)[0]["loss"]


def test_a_model_of_another_precision_leaves_its_teacher_its_own(tmp_path):
    trainer = make_trainer(tmp_path)
    model = trainer.model.double()
    assert isinstance(model, DistillationModel)
    assert {parameter.dtype for parameter in trainer.teacher.parameters()} == {torch.float32}
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert model(images).shape == (2, 4) and model.num_classes == 4
    with model.in_use():
        step = model(images, torch.tensor([0, 1]), point_ids=torch.tensor([0, 1]))
    assert step["loss"].dtype == torch.float64
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
    reference, preprocessing = copy.deepcopy(teacher).double().eval(), trainer.train_dataset.preprocessing
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


def test_a_copy_of_the_trained_module_runs_its_own_networks(tmp_path):
    model = make_trainer(tmp_path).model.eval()
    batch = {"pixel_values": torch.ones(2, 3, 8, 8), "labels": torch.tensor([0, 1]), "point_ids": torch.arange(2)}
    copied, before = copy.deepcopy(model), model(**batch)
    with torch.no_grad():
        for weight in (*copied.student.parameters(), *copied.teacher.parameters()):
            weight.zero_()
    after, zeros = model(**batch), copied(**batch)
    for name in ("student_logits", "teacher_logits"):
        assert torch.equal(after[name], before[name]) and before[name].any() and not zeros[name].any()


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


@register_method("test_batch_statistics")
class ReadsBatchStatistics(Spy):
    """Asks for a teacher that normalizes by each batch, as OFD does."""

    teacher_batch_statistics = True


@pytest.mark.parametrize("method", ["test_batch_statistics", "spy"])
def test_a_teacher_normalizes_by_the_batch_where_the_method_asks_for_it(tmp_path, method):
    images = {"input_size": (3, 8, 8), "mean": RECIPE.mean, "std": RECIPE.std}
    teacher = network(9, pretrained_cfg_overlay=images)
    reference = copy.deepcopy(teacher).double().train(method == "test_batch_statistics")
    trainer = run_training(tmp_path, method=method, teacher=teacher, max_steps=2)
    for step in trainer.method.steps:
        with torch.no_grad():
            expected = reference(step["pixel_values"].double())
        assert (step["teacher_logits"] - expected).abs().max() < 1e-3 * expected.abs().max()
    for name, buffer in trainer.teacher.named_buffers():
        assert torch.equal(buffer, network(9).get_buffer(name)), "running statistics stay"
