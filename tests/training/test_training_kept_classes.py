"""Classes without a point to train on: said at the start and at every selection, and kept by `min_per_class`."""

from dataclasses import replace

import pytest
from tiny_runs import RECIPE, image_set, make_trainer, network, run_training

from hf_kcd.cli.recipe import read_recipe
from hf_kcd.data import KnowledgeDataset
from hf_kcd.training import KCDConfig

CLASSES, KCD = 20, KCDConfig(final_ratio=0.5, epochs_per_stage=2)
SET = image_set(60, num_classes=CLASSES, seed=2)


def options(data=SET, classes: int = CLASSES) -> dict:
    networks = {"model": network(num_classes=classes), "teacher": network(9, num_classes=classes)}
    return {**networks, "train_dataset": KnowledgeDataset(data, RECIPE, seed=3), "num_train_epochs": 4}


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hf_kcd.")]


def classes_of(trainer) -> set[int]:
    return set(trainer.train_dataset.labels[trainer.train_dataset.selected].tolist())


def test_classes_that_a_selection_leaves_without_a_point_are_counted(tmp_path, caplog):
    trainer = run_training(tmp_path, KCD, **options())
    left = len(classes_of(trainer))
    present = len(set(SET["label"]))
    assert left < present
    last = [line for line in said(caplog) if line.startswith("Stage 2")]
    assert len(last) == 1
    assert f"keeps no point of {present - left} of {present} classes" in last[0] and "min_per_class=1" in last[0]
    assert trainer.knowledge_mask.classes == (left, present)


def test_min_per_class_keeps_all_classes_at_the_same_cost(tmp_path, caplog):
    trainer = run_training(tmp_path, replace(KCD, min_per_class=1), **options())
    assert classes_of(trainer) == set(SET["label"])
    assert len(trainer.train_dataset) == 30
    assert not [line for line in said(caplog) if line.startswith("Stage")]
    assert trainer.knowledge_mask.schedule["min_per_class"] == 1


def test_more_than_the_schedule_keeps_is_refused_before_the_training(tmp_path):
    with pytest.raises(ValueError, match=r"min_per_class=2 needs .* classes, but a stage keeps 30"):
        make_trainer(tmp_path / "run", replace(KCD, min_per_class=2), **options())
    assert not (tmp_path / "run").exists()


def test_classes_without_a_point_from_the_start_are_counted(tmp_path, caplog):
    some = SET.filter(lambda label: label >= 5, input_columns="label")
    make_trainer(tmp_path, **options(some))
    missing = CLASSES - len(set(some["label"]))
    assert missing >= 5
    assert [line for line in said(caplog) if f"{missing} of {CLASSES} classes have no point to train on" in line]


def test_the_command_line_has_the_option(tmp_path):
    words = ["--condense", "--min_per_class", "2", "--output_dir", str(tmp_path), "--teacher", "cifar_resnet20"]
    recipe = read_recipe("distill", words)
    assert recipe.kcd == KCDConfig(min_per_class=2)
    recipe.save(tmp_path / "recipe.yaml")
    again = read_recipe("distill", ["--config", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path)])
    assert again.kcd == recipe.kcd
