"""A teacher of larger images than the student's sees the same part of every image, with more of its pixels."""

import logging
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_runs import PAPER, make_trainer, network
from torch.utils.data import DataLoader
from transformers.utils.logging import warning_once

from hf_kcd.data import IMAGENET_PREPROCESSING, KnowledgeDataset, Preprocessing, collate
from hf_kcd.methods import register_method
from hf_kcd.methods.kd import KD
from hf_kcd.training.soft_labels import make_soft_labels

MEAN, STD = (0.5, 0.45, 0.4), (0.25, 0.2, 0.3)
# Images of 32 pixels, which the student sees at 16.
CROP = Preprocessing(MEAN, STD, 32, "crop_flip", padding=4).for_network(16)
CUT = replace(IMAGENET_PREPROCESSING, mean=MEAN, std=STD, size=16)


@register_method("test_mirrors_the_student")
class MirrorsTheStudent(KD):
    """KD of a user, who knows of no teacher's images."""

    def prepare_batch(self, batch, student):
        return batch | {"pixel_values": batch["pixel_values"].flip(3)}


def smooth_images(num_points: int = 64, size: int = 32) -> datasets.Dataset:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((num_points, 3, 5, 5)))
    fine = F.interpolate(coarse, (size, size), mode="bilinear").permute(0, 2, 3, 1)
    names = datasets.ClassLabel(names=[f"c{i}" for i in range(4)])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    columns = {"image": list((255 * fine).numpy().astype(np.uint8)), "label": np.arange(num_points) % 4}
    return datasets.Dataset.from_dict(columns, features)


IMAGES = smooth_images()


def teacher_of(size: int, seed: int = 9) -> torch.nn.Module:
    return network(seed, pretrained_cfg_overlay={"input_size": (3, size, size), "mean": MEAN, "std": STD})


def seen_by(model: torch.nn.Module) -> list[torch.Tensor]:
    """The images of every later forward pass of a network."""
    images = []
    model.conv1.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0].detach().clone()))
    return images


def shrunk(images: torch.Tensor, size: int = 16) -> torch.Tensor:
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


@pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])
def test_images_of_one_size_are_there_before_they_are_resized(memory_budget):
    data = KnowledgeDataset(IMAGES, CROP, memory_budget=memory_budget)
    data.select([3, 5, 9], [5, -1, 3], [0.3, 0.0, 0.2])
    plain = data.__getitems__([0, 1, 2])
    assert data.show_teacher(24) == 32 and data.show_teacher(64) == 32
    shown = data.__getitems__([0, 1, 2])
    assert shown["teacher_pixel_values"].shape == (3, 3, 32, 32)
    assert torch.equal(shrunk(shown["teacher_pixel_values"]), shown["pixel_values"])
    # The student's images are as they were, and without need there is nothing more.
    assert torch.equal(plain["pixel_values"], shown["pixel_values"]) and "teacher_pixel_values" not in plain
    for size in (16, 8, None):
        assert data.show_teacher(size) is None and "teacher_pixel_values" not in data[0]
    assert KnowledgeDataset(IMAGES, replace(CROP, resize=None)).show_teacher(64) is None
    assert KnowledgeDataset(IMAGES, CROP, training=False).show_teacher(24) is None


def test_images_of_any_size_are_cut_and_mirrored_alike_and_mixed_alike():
    data = KnowledgeDataset(IMAGES, CUT)
    plain = data.__getitems__(range(20))
    assert data.show_teacher(48) == 48
    alone = data.__getitems__(range(20))
    assert torch.equal(plain["pixel_values"], alone["pixel_values"])
    # Smooth images: the part at 16 is nearly the part at 48, reduced; another part or a mirrored one is far from it.
    larger = alone["teacher_pixel_values"]
    assert larger.shape == (20, 3, 48, 48)
    assert (
        (shrunk(larger) - alone["pixel_values"]).abs().max()
        < 0.15
        < (shrunk(larger.flip(3)) - alone["pixel_values"]).abs().max()
    )
    data.select([4, 7], [9, -1], [0.5, 0.0])
    mixed, partner = data.__getitems__([0, 1]), {}
    data.select([6], [9], [1.0])
    partner = data.__getitems__([0])
    for name in ("pixel_values", "teacher_pixel_values"):
        expected = 0.5 * alone[name][4] + 0.5 * partner[name][0]
        torch.testing.assert_close(mixed[name][0], expected, atol=1e-5, rtol=0)
        assert torch.equal(mixed[name][1], alone[name][7])


def test_workers_show_the_teacher_the_same():
    data = KnowledgeDataset(IMAGES, CUT, memory_budget=0)
    data.show_teacher(20)
    here, there = ([*DataLoader(data, 16, collate_fn=collate, num_workers=count)] for count in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("pixel_values", "teacher_pixel_values"))


@pytest.mark.parametrize("method", ["kd", "unix", "sskd", "crd", "dkd"])
def test_every_method_shows_both_networks_the_same(tmp_path, method):
    options = {"first_phase_epochs": 1} if method == "sskd" else {"cost_ratio": 3.0} if method == "unix" else {}
    teacher, data = teacher_of(32), KnowledgeDataset(IMAGES, CROP)
    kcd = replace(PAPER, final_ratio=0.5, epochs_per_stage=1)
    trainer = make_trainer(
        tmp_path, kcd, method=method, method_options=options, teacher=teacher, train_dataset=data, num_train_epochs=3
    )
    student_saw, teacher_saw = seen_by(trainer.student), seen_by(teacher)
    trainer.train()
    if method == "unix":
        # Its first pass only scores the drawn images.
        student_saw = student_saw[1::2]
    teacher_saw = teacher_saw[len(teacher_saw) - len(student_saw) :]
    assert len(teacher_saw) >= 9 and {images.shape[-1] for images in teacher_saw} == {32}
    assert bool((trainer.kcd.mask.perturbation > 0).any())
    for student, images in zip(student_saw, teacher_saw, strict=True):
        # Mixing, cutting and quarter turns commute with a linear, symmetric reduction.
        torch.testing.assert_close(shrunk(images), student, atol=1e-4, rtol=0)


def test_teachers_of_several_sizes_each_see_their_own(tmp_path):
    teachers, data = [teacher_of(size, size) for size in (48, 24, 16, 8)], KnowledgeDataset(IMAGES, CUT)
    trainer = make_trainer(tmp_path, method="dgkd", teacher=teachers, train_dataset=data, num_train_epochs=1)
    student_saw, *seen = [seen_by(one) for one in (trainer.student, *teachers)]
    trainer.train()
    for student, largest, larger, equal, smaller in zip(student_saw, *seen, strict=True):
        assert [one.shape[-1] for one in (largest, larger, equal, smaller)] == [48, 24, 16, 8]
        torch.testing.assert_close(larger, shrunk(largest, 24), atol=1e-5, rtol=0)
        assert torch.equal(equal, student) and torch.equal(smaller, shrunk(student, 8))


def test_a_method_that_changes_the_students_images_alone_keeps_them_for_both_and_the_run_says_so(tmp_path, caplog):
    teacher, data = teacher_of(32), KnowledgeDataset(IMAGES, CROP)
    warning_once.cache_clear()
    logger = logging.getLogger("hf_kcd")
    logger.addHandler(caplog.handler)
    try:
        trainer = make_trainer(
            tmp_path, method="test_mirrors_the_student", teacher=teacher, train_dataset=data, num_train_epochs=1
        )
    finally:
        logger.removeHandler(caplog.handler)
    assert "16 x 16, enlarged, because method 'test_mirrors_the_student' changes only the student's" in caplog.text
    student_saw, teacher_saw = seen_by(trainer.student), seen_by(teacher)
    trainer.train()
    for student, images in zip(student_saw, teacher_saw, strict=True):
        torch.testing.assert_close(images, F.interpolate(student, (32, 32), mode="bilinear"))


def test_two_trainers_of_one_data_set_each_show_their_own_teacher(tmp_path, capsys):
    data, large, small = KnowledgeDataset(IMAGES, CUT), teacher_of(24), teacher_of(16)
    trainers = [
        make_trainer(tmp_path / str(number), teacher=teacher, train_dataset=data, num_train_epochs=1)
        for number, teacher in enumerate((large, small))
    ]
    student_saw, teacher_saw = seen_by(trainers[0].student), seen_by(large)
    trainers[0].train()
    assert "shown at 16 x 16, a random part of 8 to 100 %, mirrored half of the time" in capsys.readouterr().out
    assert all(
        (images - F.interpolate(student, (24, 24), mode="bilinear")).abs().max() > 0.01
        for student, images in zip(student_saw, teacher_saw, strict=True)
    )


def test_soft_labels_are_of_what_the_teacher_would_see():
    teacher, data = teacher_of(24).eval(), KnowledgeDataset(IMAGES, CUT)
    labels = make_soft_labels(teacher, data, num_views=2, bits=16)
    assert "teacher_pixel_values" not in data[0]
    data.show_teacher(24)
    data.set_epoch(1)
    with torch.no_grad():
        expected = teacher(data.__getitems__(range(64))["teacher_pixel_values"])
    spread = float((expected.max(1).values - expected.min(1).values).max())
    found = labels.logits(torch.arange(64), 1)
    assert (found - expected).abs().max() < spread / 131_070 + 1e-4


def test_gray_networks_and_data_sets_with_a_transform_are_refused_when_the_trainer_is_made(tmp_path):
    changed = IMAGES.with_transform(lambda rows: rows)
    for options, message in (
        ({"model": network(in_chans=1)}, "cifar_resnet8 takes images of 1 channel, "),
        ({"teacher": network(in_chans=1)}, "teacher takes images of 1 channels"),
        ({"train_dataset": changed}, "transform"),
        ({"eval_dataset": changed}, "transform"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
