"""A student learns from a teacher's soft labels: as from the teacher, consistently, to the bit over interruptions."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny_runs import PAPER, RECIPE, TRAIN, SaveAt, assert_same_end, losses, make_trainer, network, run_training

from hf_kcd import KCDConfig, KnowledgeDataset, KnowledgeMask
from hf_kcd.artifacts.results import run_label
from hf_kcd.cli.main import main
from hf_kcd.cli.soft_labels import soft_labels_of_run
from hf_kcd.data import Preprocessing, SoftLabels
from hf_kcd.training import KCDTrainerCallback
from hf_kcd.training.results import run_results
from hf_kcd.training.soft_labels import make_soft_labels

NUM_KEPT = 44


@pytest.fixture(scope="module")
def masks(finished) -> dict[str, KnowledgeMask]:
    return {name: finished(name).trainer.knowledge_mask for name in ("paper", "released")}


@pytest.fixture(scope="module")
def labels(masks) -> SoftLabels:
    """Few logits of the paper's mask, for tests that do not look at them."""
    return soft_labels(masks["paper"], 2, top_k=3)


def train_set(mask: KnowledgeMask, mixing: bool = True, seed: int = 3, **options) -> KnowledgeDataset:
    dataset = KnowledgeDataset(TRAIN, RECIPE, seed=seed, **options)
    dataset.apply(mask, mixing)
    return dataset


def same_images_teacher() -> torch.nn.Module:
    """A teacher that takes the student's images as they are, so that a test can run it itself."""
    images = {"input_size": (3, RECIPE.size, RECIPE.size), "mean": RECIPE.mean, "std": RECIPE.std}
    return network(9, pretrained_cfg_overlay=images).eval()


def soft_labels(mask: KnowledgeMask, num_views: int = 6, mixing: bool = True, teacher=None, **options) -> SoftLabels:
    return make_soft_labels(teacher or network(9), train_set(mask, mixing), num_views, batch_size=16, **options)


@pytest.mark.parametrize(("kind", "mixing"), [("paper", True), ("paper", False), ("released", True)])
def test_with_a_view_for_every_epoch_it_is_the_training_with_the_teacher(tmp_path, masks, kind, mixing):
    mask, options = masks[kind], {"method": "spy", "num_train_epochs": 2, "lr_decay_epochs": [1]}
    with_teacher = run_training(tmp_path / "teacher", mask=mask, mask_mixing=mixing, **options)
    # The data set's own seed is another one: the views are the soft labels'.
    other_seed = KnowledgeDataset(TRAIN, RECIPE, seed=99)
    labels = soft_labels(mask, 2, mixing, bits=16)
    options |= {"teacher": labels, "train_dataset": other_seed}
    stored = run_training(tmp_path / "stored", mask=mask, mask_mixing=mixing, **options)
    assert stored.teacher is None and stored.teachers == ()
    assert stored.state.global_step == with_teacher.state.global_step == 6
    for step, (own, other) in enumerate(zip(stored.method.steps, with_teacher.method.steps, strict=True)):
        for name in ("pixel_values", "labels", "point_ids", "partner_ids", "perturbation", "epoch"):
            assert np.array_equal(own[name], other[name]), f"{name} of step {step}"
        span = other["teacher_logits"].max(1).values - other["teacher_logits"].min(1).values
        error = (own["teacher_logits"] - other["teacher_logits"]).abs().max(1).values
        assert (error <= span / 131_070 + 1e-5).all()
    for own, other in zip(losses(stored), losses(with_teacher), strict=True):
        assert own == pytest.approx(other, rel=2e-3)


@pytest.mark.parametrize(("top_k", "bits"), [(0, 8), (2, 16)])
def test_views_repeat_and_every_logit_is_the_teachers_answer_to_the_pixels_shown(tmp_path, masks, top_k, bits):
    mask, teacher = masks["paper"], same_images_teacher()
    labels = soft_labels(mask, 2, teacher=teacher, top_k=top_k, bits=bits)
    trainer = run_training(tmp_path, teacher=labels, mask=mask, method="spy", num_train_epochs=4)
    names = ("point_ids", "pixel_values", "teacher_logits")
    rows = zip(*map(trainer.method.by_epoch, names), strict=True)
    by_epoch = [dict(zip(names, epoch, strict=True)) for epoch in rows]
    for epoch, seen in enumerate(by_epoch):
        order, first = seen["point_ids"].argsort(), by_epoch[epoch % 2]["point_ids"].argsort()
        for name in names:
            assert torch.equal(seen[name][order], by_epoch[epoch % 2][name][first]), f"{name} of epoch {epoch}"
        with torch.no_grad():
            answer, stored = teacher(seen["pixel_values"]), seen["teacher_logits"]
        if top_k:
            answer, positions = answer.topk(top_k)
            stored = stored.gather(1, positions)
        bound = (answer.max(1).values - answer.min(1).values) / {8: 510, 16: 131_070}[bits] + 1e-4
        assert ((stored - answer).abs().max(1).values <= bound).all()
    assert not torch.equal(by_epoch[0]["pixel_values"][:1], by_epoch[1]["pixel_values"][:1])


def test_a_teacher_of_other_images_sees_them_at_its_size(tmp_path, masks):
    other = {"input_size": (3, 16, 16), "mean": (0.2, 0.3, 0.4), "std": (0.1, 0.2, 0.3)}
    teacher = network(9, "cifar_wrn_16_2", pretrained_cfg_overlay=other)
    labels = soft_labels(masks["paper"], 1, teacher=teacher, bits=16)
    spied = run_training(tmp_path, teacher=teacher, mask=masks["paper"], method="spy", max_steps=3)
    ids, logits = (torch.cat([step[name] for step in spied.method.steps]) for name in ("point_ids", "teacher_logits"))
    torch.testing.assert_close(labels.logits(ids, 0), logits, atol=1e-4, rtol=1e-4)
    assert labels.teacher == "cifar_wrn_16_2" and labels.seed == 3


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}, {"dataloader_num_workers": 2}], ids=str)
def test_resuming_is_exact_and_other_soft_labels_are_another_run(tmp_path, masks, options):
    mask = masks["paper"]
    labels, steps = soft_labels(mask, 3, top_k=3), (4,) if options else (1, 3, 8)

    def trainer(name, callbacks=(), seed=1, teacher=labels):
        given = {"teacher": teacher, "mask": mask, "method": "dkd", "num_train_epochs": 4, "save_total_limit": None}
        return make_trainer(tmp_path / name, callbacks=callbacks, model=network(seed), **given, **options)

    whole = trainer("whole", [SaveAt(*steps)])
    whole.train()
    for step in steps:
        resumed = trainer(str(step), seed=77)
        resumed.train(resume_from_checkpoint=tmp_path / "whole" / f"checkpoint-{step}")
        assert_same_end(whole, resumed, f"cut off after step {step}")
        assert losses(resumed) == losses(whole)
    if not options:
        for teacher, found in ((soft_labels(mask, 2), "soft_labels is {"), (network(9), "soft_labels is None here")):
            with pytest.raises(ValueError, match=found):
                trainer("whole", teacher=teacher).train(resume_from_checkpoint=True)


def test_a_data_set_goes_back_to_a_training_with_the_teacher(tmp_path, masks, labels):
    used, fresh = train_set(masks["paper"], seed=8), train_set(masks["paper"], seed=8)
    options = {"mask": masks["paper"], "max_steps": 3}
    run_training(tmp_path, teacher=labels, train_dataset=used, **options)
    assert_same_end(*(run_training(tmp_path, train_dataset=data, method="spy", **options) for data in (used, fresh)))


def test_images_that_are_decoded_in_workers(tmp_path):
    recipe = Preprocessing(RECIPE.mean, RECIPE.std, 8, "resized_crop_flip")

    def dataset(**options):
        made = KnowledgeDataset(TRAIN.select(range(20)), recipe, seed=3, memory_budget=0, **options)
        made.select([1, 4, 9, 16], [-1, 3, -1, 0], [0.0, 0.2, 0.0, 0.3])
        return made

    teacher = same_images_teacher()
    labels = make_soft_labels(teacher, dataset(), 2, bits=16, num_workers=2)
    same = make_soft_labels(teacher, dataset(), 2, bits=16, batch_size=3)
    assert torch.equal(labels.points, same.points)
    # Another size of batch sums in another order, and may round to the next code.
    assert int((labels.codes.int() - same.codes.int()).abs().max()) <= 1
    options = {"method": "spy", "dataloader_num_workers": 2, "num_train_epochs": 3}
    trainer = run_training(tmp_path, teacher=labels, train_dataset=dataset(), **options)
    with torch.no_grad():
        for step in trainer.method.steps:
            torch.testing.assert_close(step["teacher_logits"], teacher(step["pixel_values"]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ce", "'ce' has no teacher: leave the soft labels out"),
        ("dml", "has no teacher"),
        ("dgkd", "learns from several teachers"),
        ("at", "reads the teacher's features"),
        ("pkt", "reads the teacher's embedding"),
        ("reviewkd", "reads the teacher's embedding and preactivations"),
        ("unix", "changes the images before the teacher sees them"),
        ("slkd", "copies the teacher's architecture"),
    ],
)
def test_a_method_that_needs_the_network_is_refused(tmp_path, masks, labels, method, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_trainer(tmp_path / "run", teacher=labels, mask=masks["paper"], method=method)
    assert "or choose kd or dkd" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_methods_that_read_logits_alone_learn_from_them_and_the_results_say_so(tmp_path, masks, labels):
    mask = masks["paper"]
    for method in ("dkd", "takd", "kd"):
        own = {"teacher": labels, "mask": mask}
        if method == "dkd":  # Without a mask every point is taught.
            own = {"teacher": make_soft_labels(network(9), KnowledgeDataset(TRAIN, RECIPE, seed=3), 1)}
        trainer = make_trainer(tmp_path / method, method=method, max_steps=3, **own)
        before = [parameter.detach().clone() for parameter in trainer.student.parameters()]
        trainer.train()
        assert all(np.isfinite(line["loss"]) for line in losses(trainer))
        assert any(not torch.equal(old, new) for old, new in zip(before, trainer.student.parameters(), strict=True))
        assert len(trainer.train_dataset) == (88 if method == "dkd" else NUM_KEPT)
    results = run_results(trainer, data="noise")
    stored = results["soft_labels"]
    assert results["teacher"] == "cifar_resnet8"
    assert (stored["num_views"], stored["top_k"], stored["bits"], stored["num_points"]) == (2, 3, 8, NUM_KEPT)
    assert stored["bytes"] == NUM_KEPT * (8 + 2 * (3 + 3 + 4 + 4 + 4))
    # A step of KD runs the teacher too; its cost without the teacher is not stated.
    assert results["cost"]["step"] is None
    assert run_label(results) == "KD on a mask, soft labels (2 views, top 3, 8 bits), resnet8 → resnet8"


def test_soft_labels_of_another_selection_or_preprocessing_are_refused(tmp_path, masks, labels):
    mask = masks["paper"]
    with pytest.raises(ValueError, match="leave it out, and pass the mask"):
        make_trainer(tmp_path, teacher=labels, callbacks=[KCDTrainerCallback(PAPER)])
    for options in ({}, {"mask": mask, "mask_mixing": False}, {"mask": masks["released"]}):
        with pytest.raises(ValueError, match="of another selection: theirs has 44 points"):
            make_trainer(tmp_path, teacher=labels, **options)
    padded = KnowledgeDataset(TRAIN, replace(RECIPE, padding=2))
    with pytest.raises(ValueError, match="padding is 1 there and 2 here"):
        make_trainer(tmp_path, teacher=labels, mask=mask, train_dataset=padded)
    # Whatever is selected afterwards, no point learns from another one's labels.
    trainer = make_trainer(tmp_path, teacher=labels, mask=mask)
    trainer.train_dataset.select(np.setdiff1d(np.arange(88), mask.kept)[:1])
    assert trainer.train_dataset[0]["teacher_logits"].isnan().all()


def test_soft_labels_that_cannot_be_made_are_refused(masks):
    dataset, broken = train_set(masks["paper"]), network(9)
    broken.get_classifier().bias.data[2] = torch.nan
    for teacher, data, options, message in (
        (network(9), KnowledgeDataset(TRAIN, RECIPE, training=False), {}, "make it with training=True"),
        (network(9, num_classes=7), dataset, {}, "The teacher has 7 classes and the data 4"),
        (network(9), dataset, {"num_views": 0}, "num_views is 0"),
        (network(9), dataset, {"bits": 4}, "bits is 4"),
        (network(9), dataset, {"top_k": 5}, "top_k is 5"),
        (broken, dataset, {}, f"cifar_resnet8 answers point {int(masks['paper'].kept.min())} with NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            make_soft_labels(teacher, data, **options)


# ---- The command line ----

TINY = ["--data", "digits", "--train_points", "60", "--num_train_epochs", "2", "--seed", "3", "--no_plots"]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    """A condensed run of digits, its teacher, and a folder with the mask and its soft labels as a repository has them."""
    folder = tmp_path_factory.mktemp("distilled")
    main(["train-teacher", *TINY, "--network", "cifar_resnet8", "--output_dir", str(folder / "teacher")])
    words = ["--teacher", str(folder / "teacher"), "--condense", "--epochs_per_stage", "1", "--final_ratio", "0.5"]
    main(["distill", *TINY, *words, "--method_options", "temperature: 2.0", "--output_dir", str(folder / "run")])
    soft_labels_of_run(folder / "run", num_views=2, top_k=5).save_pretrained(folder / "published")
    KnowledgeMask.from_pretrained(folder / "run" / "mask").save_pretrained(folder / "published")
    return folder


def test_the_command_line_distils_again_without_the_teacher(tmp_path, capsys, distilled):
    labels = SoftLabels.from_pretrained(distilled / "published")
    mask = KnowledgeMask.from_pretrained(distilled / "published")
    assert torch.equal(labels.points, mask.kept.sort().values)
    assert (labels.num_views, labels.top_k, labels.temperature, labels.seed) == (2, 5, 2.0, 3)
    # The pair's recipe serves: its teacher is set aside, and need not exist.
    recipe = yaml.safe_load((distilled / "run" / "recipe.yaml").read_text())
    recipe |= {"teacher": str(tmp_path / "nowhere"), "condense": False}
    for name in ("preset", *KCDConfig().to_dict()):
        recipe.pop(name)
    (tmp_path / "pair.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--config", tmp_path / "pair.yaml", "--mask", distilled / "published", "--soft_labels", "true"]
    main(["distill", *map(str, words), "--output_dir", str(tmp_path / "again")])
    assert "from the soft labels of cifar_resnet8" in capsys.readouterr().out
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    assert results["teacher"] == "cifar_resnet8" and results["soft_labels"]["num_views"] == 2
    assert results["mask"]["num_kept"] == len(mask.kept)
    written = yaml.safe_load((tmp_path / "again" / "recipe.yaml").read_text())
    assert written["soft_labels"] is True and "teacher" not in written
    main(["distill", "--config", str(tmp_path / "again" / "recipe.yaml"), "--output_dir", str(tmp_path / "third")])
    third = json.loads((tmp_path / "third" / "results.json").read_text())
    assert third["accuracy"] == results["accuracy"] and third["history"]["loss"] == results["history"]["loss"]


def test_the_command_line_refuses_in_one_line(tmp_path, refused, distilled):
    published, out = str(distilled / "published"), ["--output_dir", str(tmp_path / "out")]
    failure = partial(refused, "distill", *TINY)
    assert "name it, e.g. --mask user/name" in failure("--soft_labels", *out)
    both = failure("--soft_labels", "--mask", published, "--teacher", "cifar_resnet8", *out)
    assert "soft_labels replace the teacher: leave teacher or soft_labels out" in both
    without = failure("--soft_labels", "--mask", str(distilled / "run" / "mask"), *out)
    assert "holds no soft labels: soft_labels.json and soft_labels.safetensors missing" in without
    seen = failure("--soft_labels", "--mask", published, "--mask_mixing", "false", *out)
    assert "of another selection" in seen
    method = failure("--soft_labels", "--mask", published, "--method", "at", *out)
    assert "reads the teacher's features" in method
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=r"has no recipe\.yaml"):
        soft_labels_of_run(distilled / "published")
    with pytest.raises(ValueError, match="learned from none"):
        soft_labels_of_run(distilled / "teacher")
