"""Names of classes in another order change nothing: in the teacher, the student, networks beside it, evaluation and mask."""

import copy
import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from tiny_runs import (
    EVAL,
    NUM_CLASSES,
    PAPER,
    RECIPE,
    TRAIN,
    assert_same_end,
    image_set,
    make_trainer,
    network,
    run_training,
)
from torch import nn

from hf_kcd import KnowledgeDataset, load_model
from hf_kcd.models import label_names, save_model
from hf_kcd.models.loading import load_student
from hf_kcd.training.soft_labels import make_soft_labels

NAMES, OTHERS = ["c0", "c1", "c2", "c3"], ["c2", "c0", "c3", "c1"]
SHORT = {"num_train_epochs": 2, "lr_decay_epochs": [1]}
OPTIONS = {
    "kd": {},
    "dkd": {"warmup_epochs": 0},
    "crd": {"num_negatives": 16, "kd_weight": 1},
    "slkd": {"num_sl_teachers": 1},
    "sskd": {"first_phase_epochs": 1, "first_phase_decay_epochs": []},
    "ofd": {},
    "unix": {},
    "dgkd": {},
}


def renamed(dataset: datasets.Dataset, names: list[str] = OTHERS) -> datasets.Dataset:
    """The same points, with the classes in another order."""
    labels = [names.index(dataset.features["label"].names[label]) for label in dataset["label"][:]]
    feature = datasets.ClassLabel(names=names)
    return dataset.remove_columns("label").add_column("label", labels, feature=feature)


def reordered(model: nn.Module, names: list[str] = OTHERS, transformers: bool = False) -> nn.Module:
    """A copy of a network that knows c0 to c3 by logits in another order."""
    model, rows = copy.deepcopy(model), [NAMES.index(name) for name in names]
    classifier = model.get_classifier()
    for weight in (classifier.weight, classifier.bias):
        weight.data = weight.data[rows].clone()
    if transformers:
        model.config = type("Config", (), {"id2label": dict(enumerate(names))})()
    else:
        model.pretrained_cfg["label_names"] = names
    return model


def named(model: nn.Module) -> nn.Module:
    model.pretrained_cfg["label_names"] = NAMES
    return model


@pytest.mark.parametrize("method", OPTIONS)
def test_a_teacher_with_its_classes_in_another_order_teaches_the_same(tmp_path, method):
    plain, other = network(9), reordered(network(9), transformers=method == "dkd")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    assistant = [network(4)] if method == "dgkd" else []
    runs = []
    for teacher, beside in ((plain, assistant), (other, [reordered(one) for one in assistant])):
        teachers = [teacher, *beside] if beside else teacher
        options = {"method": method, "method_options": OPTIONS[method], "teacher": teachers, **SHORT}
        torch.manual_seed(0)
        runs.append(run_training(tmp_path / str(len(runs)), replace(PAPER, epochs_per_stage=1), **options))
    assert_same_end(*runs)
    assert label_names(other) == OTHERS
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_evaluation_and_predictions_are_by_name_and_leave_the_set_as_it_was(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL)
    expected, predicted = trainer.evaluate(), trainer.predict(EVAL)
    other = renamed(EVAL)
    known = KnowledgeDataset(other, RECIPE, training=False)
    labels = known.labels.clone()
    for again in (
        trainer.evaluate(other),
        trainer.evaluate(known),
        make_trainer(tmp_path, eval_dataset=other).evaluate(),
    ):
        assert {name: again[name] for name in ("eval_loss", "eval_top1")} == {
            name: expected[name] for name in ("eval_loss", "eval_top1")
        }
    assert torch.equal(known.labels, labels) and known.class_names == OTHERS
    found = trainer.predict(other)
    assert np.array_equal(found.label_ids, predicted.label_ids) and found.metrics["test_top1"] == expected["eval_top1"]
    assert np.array_equal(found.predictions, predicted.predictions)


@pytest.mark.parametrize("taught_in", [None, NAMES, ["c3", "c1", "c0", "c2"]])
def test_a_student_that_goes_on_keeps_its_own_order(tmp_path, taught_in):
    student = named(network())
    plain = run_training(tmp_path / "plain", model=student, eval_dataset=EVAL, **SHORT)
    # Labels, teacher and evaluation set follow the student.
    save_model(reordered(network()), tmp_path / "student", label_names=OTHERS)
    # A teacher without names has the order of the data, not that of the student.
    teacher = network(9) if taught_in is None else reordered(network(9), taught_in)
    options = {"model": str(tmp_path / "student"), "teacher": teacher, "eval_dataset": EVAL, **SHORT}
    other = run_training(tmp_path / "other", **options)
    rows = [NAMES.index(name) for name in OTHERS]
    images = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        logits = [trainer.student.eval()(images) for trainer in (plain, other)]
    torch.testing.assert_close(logits[1], logits[0][:, rows], atol=1e-4, rtol=1e-4)
    assert other.evaluate()["eval_top1"] == plain.evaluate()["eval_top1"]
    other.save_model()
    assert json.loads((tmp_path / "other" / "config.json").read_text())["label_names"] == OTHERS
    assert label_names(load_model(tmp_path / "other")) == OTHERS
    # One with a new classifier has no names any more, also where it has as many classes as before.
    changed = reordered(network())
    changed.reset_classifier(3)
    transferred = load_student(str(tmp_path / "student"), NUM_CLASSES, new_classifier=True)
    assert label_names(changed) is None and label_names(transferred) is None


def test_a_student_that_was_trained_teaches_by_name_without_being_saved(tmp_path):
    assistant = run_training(tmp_path / "assistant", model=network(4), **SHORT).student
    assert label_names(assistant) == NAMES
    accuracies = []
    for dataset, evaluation in ((TRAIN, EVAL), (renamed(TRAIN), renamed(EVAL))):
        knowledge = KnowledgeDataset(dataset, RECIPE, seed=3)
        options = {"teacher": copy.deepcopy(assistant), "train_dataset": knowledge, "method": "spy", **SHORT}
        trainer = run_training(tmp_path / str(len(accuracies)), eval_dataset=evaluation, **options)
        step = trainer.method.steps[0]
        accuracies.append((step["teacher_logits"].argmax(1) == step["labels"]).float().mean())
    assert accuracies[0] == accuracies[1]


def test_a_network_that_learns_along_keeps_its_own_order(tmp_path):
    save_model(named(network(5)), tmp_path / "plain", label_names=NAMES)
    save_model(reordered(network(5)), tmp_path / "other", label_names=OTHERS)
    images, found = torch.randn(5, 3, 8, 8), []
    for name in ("plain", "other"):
        options = {"method": "dml", "method_options": {"peers": [str(tmp_path / name)]}, "teacher": None}
        torch.manual_seed(0)
        trainer = run_training(tmp_path / f"run {name}", eval_dataset=EVAL, **options, **SHORT)
        trainer.save_networks()
        peer = load_model(tmp_path / f"run {name}" / "peer_1")
        with torch.no_grad():
            found.append((trainer.evaluate()["eval_peer_1_top1"], label_names(peer), peer.eval()(images)))
    (accuracy, names, logits), (other_accuracy, other_names, other_logits) = found
    assert accuracy == other_accuracy and (names, other_names) == (NAMES, OTHERS)
    rows = [NAMES.index(name) for name in OTHERS]
    torch.testing.assert_close(other_logits, logits[:, rows], atol=1e-3, rtol=1e-3)


def test_a_mask_and_its_soft_labels_serve_the_same_images_with_other_labels(tmp_path, finished):
    mask = finished("paper").trainer.knowledge_mask
    # Masks of earlier versions hold no labels.
    assert mask.labels is not None
    trainer = make_trainer(
        tmp_path, mask=replace(mask, labels=None), train_dataset=KnowledgeDataset(renamed(TRAIN), RECIPE)
    )
    assert trainer.train_dataset.selected.tolist() == mask.kept.sort().values.tolist()
    assert mask.select(renamed(TRAIN))["label"][:] == renamed(TRAIN).select(mask.kept.sort().values)["label"][:]

    knowledge = {}
    for name, dataset in (("plain", TRAIN), ("other", renamed(TRAIN))):
        knowledge[name] = KnowledgeDataset(dataset, RECIPE, seed=3)
        knowledge[name].apply(mask)
    runs = []
    for top_k in (0, 2):
        labels = make_soft_labels(reordered(network(9)), knowledge["plain"], 2, top_k=top_k, batch_size=16)
        same = make_soft_labels(network(9), knowledge["other"], 2, top_k=top_k, batch_size=16)
        points = labels.points[:7]
        rows = [NAMES.index(name) for name in OTHERS]
        if not top_k:
            straight = make_soft_labels(network(9), knowledge["plain"], 2, batch_size=16)
            assert torch.equal(labels.logits(points, 1), straight.logits(points, 1))
        knowledge["other"].use_soft_labels(labels)
        knowledge["other"].set_epoch(0)
        batch = knowledge["other"].__getitems__(range(len(knowledge["other"])))
        expected = labels.logits(batch["point_ids"], 0)[:, rows]
        torch.testing.assert_close(batch["teacher_logits"], expected, atol=0, rtol=0)
        knowledge["other"].use_soft_labels(None)
        assert same.dataset.class_names == tuple(OTHERS) and labels.dataset.class_names == tuple(NAMES)
        runs.append(run_training(tmp_path / str(top_k), teacher=labels, mask=mask, train_dataset=TRAIN, **SHORT))
    # Points shuffled, or other labels, are still another data set.
    wrong = renamed(TRAIN).map(lambda row: {"label": (row["label"] + 1) % NUM_CLASSES})
    with pytest.raises(ValueError, match="labels differ"):
        KnowledgeDataset(wrong, RECIPE).apply(mask)


@pytest.mark.parametrize("who", ["teacher", "student", "evaluation set"])
def test_other_names_are_refused_by_name(tmp_path, who):
    animals = ["cat", "dog", "eel", "fox"]
    model = network(9)
    model.pretrained_cfg["label_names"] = animals
    strange = EVAL.cast_column("label", datasets.ClassLabel(names=animals))
    options = {"teacher": {"teacher": model}, "student": {"model": model}, "evaluation set": {"eval_dataset": strange}}
    with pytest.raises(
        ValueError, match="Classes differ: .*cat, dog, eel, fox.*c0, c1|Classes differ: .*c0, c1.*cat, dog"
    ) as e:
        make_trainer(tmp_path / "run", **options[who])
    assert f"Only the {who} has cat, dog, eel, fox" in str(e.value)
    assert not (tmp_path / "run").exists()


def test_an_unnamed_teacher_is_taken_with_a_line(tmp_path, caplog):
    make_trainer(tmp_path)
    assert "The teacher has no class names: its classes are assumed to be in the order of the data set" in caplog.text
    caplog.clear()
    make_trainer(tmp_path, teacher=named(network(9)))
    assert "class names" not in caplog.text


def test_another_set_is_read_by_the_columns_of_the_training_set(tmp_path):
    def with_coarse(dataset):
        coarse = [label // 2 for label in dataset["label"][:]]
        dataset = dataset.add_column("coarse", coarse, feature=datasets.ClassLabel(names=["low", "high"]))
        # A second image column, that comes first, and is black.
        black = [np.zeros((8, 8, 3), np.uint8)] * len(dataset)
        masks = datasets.Dataset.from_dict({"mask": black}, datasets.Features({"mask": datasets.Image()}))
        return datasets.concatenate_datasets([masks, dataset.rename_column("image", "photograph")], axis=1)

    columns = {"image_column": "photograph", "label_column": "coarse"}
    train = KnowledgeDataset(with_coarse(TRAIN), RECIPE, **columns)
    other = with_coarse(EVAL)
    evaluation = KnowledgeDataset(other, RECIPE, training=False, **columns)
    # Which of several columns are read is said where the training starts.
    assert train.describe().endswith("; columns photograph and coarse, not mask, label.")
    two = {"num_classes": 2}
    trainer = make_trainer(
        tmp_path, model=network(**two), teacher=network(9, **two), train_dataset=train, eval_dataset=other
    )
    expected = trainer.evaluate(evaluation)
    for found in (trainer.evaluate(), trainer.evaluate(other)):
        assert (found["eval_loss"], found["eval_top1"]) == (expected["eval_loss"], expected["eval_top1"])
    predicted = trainer.predict(other)
    assert predicted.label_ids.tolist() == other["coarse"][:]
    assert np.array_equal(predicted.predictions, trainer.predict(evaluation).predictions)


def test_points_without_labels_are_predicted_and_not_evaluated(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=EVAL)
    expected = trainer.predict(EVAL)
    bare = EVAL.remove_columns("label")
    unknown = bare.add_column("label", [-1] * len(EVAL), feature=datasets.ClassLabel(names=OTHERS))
    missing = bare.add_column("label", [None] * len(EVAL), feature=datasets.ClassLabel(names=NAMES))
    for dataset in (bare, unknown, missing, KnowledgeDataset(unknown, RECIPE, training=False)):
        found = trainer.predict(dataset)
        assert np.array_equal(found.predictions, expected.predictions) and found.label_ids is None
        assert not {"test_loss", "test_top1"} & set(found.metrics)
        if dataset is not bare:
            with pytest.raises(ValueError, match=r"no labels .*predict\(\)"):
                trainer.evaluate(dataset)
    with pytest.raises(ValueError, match="The evaluation set has no labels"):
        trainer.evaluate(bare)
    with pytest.raises(ValueError, match=r"no labels .*predict\(\)"):
        make_trainer(tmp_path, eval_dataset=unknown)
    some = [-1, *EVAL["label"][1:]]
    with pytest.raises(ValueError, match="Point 0 has the label -1"):
        trainer.predict(bare.add_column("label", some, feature=datasets.ClassLabel(names=NAMES)))
    with pytest.raises(ValueError, match="Point 0 has the label -1"):
        make_trainer(tmp_path, train_dataset=unknown)


def test_labels_as_words_are_refused_with_advice_that_works(tmp_path):
    words = TRAIN.cast_column("label", datasets.Value("int64")).map(
        lambda row: {"label": NAMES[row["label"]]},
        features=datasets.Features({**TRAIN.features, "label": datasets.Value("string")}),
    )
    with pytest.raises(ValueError, match="label column.*class_encode_column"):
        make_trainer(tmp_path, train_dataset=words)
    trainer = make_trainer(tmp_path, train_dataset=words.class_encode_column("label"))
    assert trainer.train_dataset.labels.tolist() == TRAIN["label"][:]


def test_one_class_is_refused(tmp_path):
    one = image_set().filter(lambda row: row["label"] == 2)
    with pytest.raises(ValueError, match=r"All \d+ points of the training set are of one class \(c2\)"):
        make_trainer(tmp_path / "run", train_dataset=one)
    assert not (tmp_path / "run").exists()
