"""The teacher only teaches: never trained, never saved, never in train mode, and shown images as it knows them."""

import pytest
import torch
from distillation_runs import PAPER, make_trainer, network

from hf_kcd.training.model import DistillationModel


def test_the_teacher_is_left_as_it_was(tmp_path):
    teacher = network(9).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer = make_trainer(tmp_path, PAPER, teacher=teacher, save_strategy="epoch")
    trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert int(teacher.bn1.num_batches_tracked) == 0
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert trainer.teacher is teacher
    inside = {id(parameter) for parameter in trainer.model.parameters()}
    assert not inside & {id(parameter) for parameter in teacher.parameters()}
    assert trainer.model.state_dict().keys() == {f"student.{name}" for name in before}


def test_the_teacher_sees_images_normalised_as_it_was_trained(tmp_path):
    teacher = network(9)
    teacher.pretrained_cfg.update(mean=(0.1, 0.2, 0.6), std=(0.5, 0.4, 0.1))
    trainer = make_trainer(tmp_path, method="spy", teacher=teacher, num_train_epochs=1)
    trainer.train()
    reference = network(9).double().eval()
    recipe = trainer.train_dataset.recipe

    def channels(values):
        return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)

    for step in trainer.method.steps:
        pixels = step["pixel_values"].double() * channels(recipe.std) + channels(recipe.mean)
        assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
        with torch.no_grad():
            expected = reference((pixels - channels((0.1, 0.2, 0.6))) / channels((0.5, 0.4, 0.1)))
        assert (step["teacher_logits"] - expected).abs().max() < 1e-3 * expected.abs().max()


def test_bfloat16_trains_and_values_stay_finite(tmp_path):
    trainer = make_trainer(tmp_path, PAPER, method="spy", bf16=True, num_train_epochs=4, lr_decay_epochs=[3])
    trainer.train()
    assert {step["teacher_logits"].dtype for step in trainer.method.steps} == {torch.bfloat16}
    assert {step["logits"].dtype for step in trainer.method.steps} == {torch.bfloat16}
    record = trainer.kcd.record
    assert record.value.isfinite().all() and (record.value > 0).all()
    assert record.num_rejected == 0
    lines = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert lines[-1] < lines[0]


def test_the_model_moves_its_teacher_along(tmp_path):
    trainer = make_trainer(tmp_path)
    model = trainer.model
    assert isinstance(model, DistillationModel)
    model.double()
    assert {parameter.dtype for parameter in trainer.teacher.parameters()} == {torch.float64}
    logits = model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert logits.shape == (2, 4) and model.num_classes == 4
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = model.nothing_like_it
