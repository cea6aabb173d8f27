"""Batches that the schedule knows beforehand are tried before the training: single images, and too few points to compare."""

import pytest
import timm
import torch
from tiny_runs import NUM_CLASSES, RECIPE, image_set, losses, make_trainer, network
from torch import nn

from hf_kcd.condensation import CondensationSchedule
from hf_kcd.data import KnowledgeDataset
from hf_kcd.training import KCDConfig
from hf_kcd.training.batches import check_batches

# 108, 93, 93 and 81 points: the last epoch has five batches of 16 and one of 1.
RATIO, POINTS, EPOCHS = 0.75, 108, 4
KCD = KCDConfig(final_ratio=RATIO, epochs_per_stage=2)


def strided(seed: int = 1) -> nn.Module:
    """A network with batch normalization whose last maps have one position on these images, as resnet18's have at 32 px."""
    torch.manual_seed(seed)
    size = {"input_size": (3, RECIPE.size, RECIPE.size)}
    return timm.create_model("test_resnet", num_classes=NUM_CLASSES, pretrained_cfg_overlay=size)


def data(num_points: int = POINTS, **options) -> KnowledgeDataset:
    return KnowledgeDataset(image_set(num_points, **options), RECIPE, seed=3)


def try_run(out, kcd=KCD, num_points=POINTS, **options):
    options = {"num_train_epochs": EPOCHS, "teacher": network(9), "model": strided(), **options}
    return make_trainer(out, kcd, train_dataset=data(num_points), **options)


def test_a_batch_of_one_image_that_cannot_be_normalized_is_refused_before_the_training(tmp_path):
    with pytest.raises(
        ValueError, match=r"Epoch 4 trains on 81 points in batches of 16, one of them of a single"
    ) as error:
        try_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert "test_resnet normalizes" in str(error.value)
    # The nearest size under which 108, 93 and 81 points leave no rest of one.
    assert "set per_device_train_batch_size to 15, or dataloader_drop_last" in str(error.value)


@pytest.mark.parametrize("way_out", [{"per_device_train_batch_size": 15}, {"dataloader_drop_last": True}])
def test_the_ways_out_train_to_the_end(tmp_path, way_out):
    trainer = try_run(tmp_path, logging_strategy="no", **way_out)
    trainer.train()
    assert trainer.state.epoch == EPOCHS


@pytest.mark.parametrize(
    "options",
    [
        {"model": network()},  # Its last maps have four positions.
        {"model": timm.create_model("test_vit", num_classes=NUM_CLASSES, img_size=8, patch_size=4)},
        {"method": "sskd", "method_options": {"first_phase_epochs": 1}, "logging_strategy": "no"},  # Four rotations.
    ],
)
def test_a_single_image_that_can_be_normalized_is_trained_on(tmp_path, options):
    if isinstance(options.get("model"), nn.Module):
        options["model"].pretrained_cfg["input_size"] = (3, RECIPE.size, RECIPE.size)
    trainer = try_run(tmp_path, **options)
    trainer.train()
    assert trainer.state.epoch == EPOCHS


def test_the_trial_leaves_the_networks_as_they_were(tmp_path):
    trainer = try_run(tmp_path, model=network())
    student = trainer.student
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for number, module in enumerate(student.modules()):
        module.training = number % 2 == 0
    modes = [module.training for module in student.modules()]
    check_batches(trainer.model, trainer.schedule, RECIPE.size)
    assert [module.training for module in student.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_frozen_batch_normalization_takes_single_images(tmp_path):
    student = strided().requires_grad_(False)
    student.get_classifier().requires_grad_(True)
    assert try_run(tmp_path, model=student) is not None


def test_networks_that_train_along_are_tried_too(tmp_path):
    with pytest.raises(ValueError, match="test_resnet normalizes"):
        try_run(tmp_path, method="dml", method_options={"peers": ["test_resnet"]}, model=network(), teacher=None)
    with pytest.raises(ValueError, match="test_resnet normalizes"):
        try_run(tmp_path, method="slkd", model=network(), teacher=strided())


def test_unix_may_keep_a_single_image_of_several(tmp_path):
    options = {"method": "unix", "method_options": {"keep_ratio": 0.25, "cost_ratio": 1.0}, "num_points": 18}
    with pytest.raises(ValueError, match="single image"):
        try_run(tmp_path, None, **options)


def test_batches_of_one_image_are_refused_as_such(tmp_path):
    with pytest.raises(ValueError, match="Epoch 1 .* batches of 1, .*set per_device_train_batch_size to 2"):
        try_run(tmp_path, None, num_points=8, per_device_train_batch_size=1)


@pytest.mark.parametrize(("method", "fewest"), [("rkd", 3), ("sp", 2), ("pkt", 2), ("cc", 2), ("sskd", 2)])
def test_methods_that_compare_points_refuse_batches_without_enough_of_them(tmp_path, method, fewest):
    options = {"method": method, "num_points": 12, "kcd": None, "model": network(), "num_train_epochs": 1}
    if method == "sskd":
        options["method_options"] = {"first_phase_epochs": 1}
    with pytest.raises(ValueError, match=rf"'{method}' .* needs {fewest} .* batches have {fewest - 1} in epoch 1"):
        try_run(tmp_path / "few", per_device_train_batch_size=fewest - 1, **options)
    trainer = try_run(tmp_path / "enough", per_device_train_batch_size=fewest, **options)
    trainer.train()
    part = "similarity" if method == "sskd" else method
    assert losses(trainer)[0][f"loss_{part}"] > 0


def test_too_few_points_in_a_stage_are_no_matter_of_the_batch_size(tmp_path):
    # 40 points become 1.
    kcd, options = KCDConfig(final_ratio=0.001, epochs_per_stage=2), {"method": "sp", "model": network()}
    with pytest.raises(ValueError, match="needs 2 .* have 1 in epoch 2: keep more points, or choose another method"):
        try_run(tmp_path, kcd, num_points=40, **options)


def test_contrast_with_one_class_is_refused_before_the_training(tmp_path):
    networks = {"model": network(num_classes=1), "teacher": network(9, num_classes=1)}
    with pytest.raises(ValueError, match="of one class"):
        make_trainer(tmp_path / "run", method="crd", train_dataset=data(20, num_classes=1), **networks)
    assert not (tmp_path / "run").exists()


def test_a_condensation_that_drops_no_point_is_refused(tmp_path):
    # A tenth of 20 points in three stages is less than a point for each.
    kcd = KCDConfig(final_ratio=0.9, epochs_per_stage=2, shape="linear")
    with pytest.raises(ValueError, match=r"final_ratio=0.9 drops none of the 20 points in 3 stages"):
        try_run(tmp_path, kcd, num_points=20, num_train_epochs=6)


def test_the_smallest_and_the_largest_batch_of_an_epoch():
    schedule = CondensationSchedule(108, EPOCHS, 2, RATIO)
    rows = [schedule.with_batches(16).batch_rows(epoch) for epoch in range(EPOCHS)]
    assert rows == [(12, 16), (13, 16), (13, 16), (1, 16)]
    assert schedule.with_batches(200).batch_rows(3) == (81, 81)
    assert schedule.with_batches(27).batch_rows(3) == (27, 27)
    # accelerate fills the last batches of several processes with the first points.
    assert schedule.with_batches(16, world_size=2).batch_rows(3) == (16, 16)
    assert schedule.with_batches(16, drop_last=True).batch_rows(3) == (16, 16)
