"""The arguments and methods of transformers' Trainer: taken and followed, or refused by name with the way out."""

import contextlib
import json

import datasets
import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from tiny_runs import (
    EVAL,
    PAPER,
    RECIPE,
    TRAIN,
    Watch,
    assert_same_end,
    config,
    differing,
    make_trainer,
    network,
    outcome,
)
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import HPSearchBackend

from hf_kcd import DistillationTrainer, KCDTrainerCallback
from hf_kcd.data import KnowledgeDataset, collate
from hf_kcd.training.results import run_results

SHORT = {"num_train_epochs": 3, "lr_decay_epochs": [2]}


@pytest.mark.parametrize("name", ["data_collator", "compute_loss_func", "preprocess_logits_for_metrics"])
def test_functions_that_would_never_be_called_are_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is not taken: "):
        make_trainer(tmp_path / "run", None, **{name: lambda *args: None})
    assert not (tmp_path / "run").exists()
    assert make_trainer(tmp_path, data_collator=collate).data_collator is collate


class FromPeft(nn.Module):
    __module__ = "peft.peft_model"


def vit_of_transformers() -> nn.Module:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**shape, intermediate_size=16, num_labels=4))


FOREIGN = {
    "torchvision": (lambda: torchvision.models.resnet18(num_classes=4), ValueError, "resnet18.tv_in1k"),
    "transformers": (vit_of_transformers, ValueError, "ViTForImageClassification.*timm.list_models"),
    "peft": (FromPeft, ValueError, r"merge_and_unload\(\)"),
    "own module": (lambda: nn.Linear(4, 4), ValueError, "Linear.*register_model"),
    "wrapped": (lambda: nn.DataParallel(network()), ValueError, "give its module.*torchrun"),
    "class": (lambda: nn.Linear, TypeError, "the class Linear"),
    "arguments": (lambda: transformers.TrainingArguments("x"), TypeError, r"TrainingArguments.*args=\.\.\."),
    "number": (lambda: 3, TypeError, "a int"),
}


@pytest.mark.parametrize("role", ["model", "teacher"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_networks_of_other_libraries_are_refused_with_the_way_out(tmp_path, role, kind):
    make, error, message = FOREIGN[kind]
    with pytest.raises(error, match=f"{role} is .*{message}"):
        make_trainer(tmp_path / "run", **{role: make()})
    assert not (tmp_path / "run").exists()


def test_students_whose_weights_are_not_their_own_are_refused(tmp_path):
    with pytest.raises(ValueError, match="_orig_mod.*torch_compile"):
        make_trainer(tmp_path, model=torch.compile(network()))
    with pytest.raises(ValueError, match="model is quantized"):
        make_trainer(tmp_path, model=torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}))


def test_columns_that_are_not_decoded_train_the_same(tmp_path):
    raw = TRAIN.cast_column("image", datasets.Image(decode=False))
    one, other = (
        make_trainer(tmp_path, train_dataset=KnowledgeDataset(data, RECIPE, seed=3), **SHORT) for data in (TRAIN, raw)
    )
    for trainer in (one, other):
        trainer.train()
    assert_same_end(one, other)


# ---- Optimizers ----


def test_networks_and_optimizers_that_would_train_nothing_are_refused(tmp_path):
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable weights"):
        make_trainer(tmp_path, None, model=frozen)
    student = network()
    own = {"optimizers": (torch.optim.SGD(student.parameters(), lr=0.1), None), "model": student}
    with pytest.raises(ValueError, match=r"the method trains \(.*optimizer_cls_and_kwargs"):
        make_trainer(tmp_path, None, method="crd", **own)
    with pytest.raises(ValueError, match="no weights of the student"):
        make_trainer(tmp_path, None, optimizers=own["optimizers"], model=network())
    assert make_trainer(tmp_path, None, **own).optimizer is own["optimizers"][0]


def test_an_own_optimizer_and_scheduler_are_followed_and_recorded(tmp_path):
    student, watch = network(), Watch()
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.02, weight_decay=0.03)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    trainer = make_trainer(tmp_path, PAPER, [watch], model=student, optimizers=(optimizer, scheduler), **SHORT)
    trainer.train()
    # Stepped after every update, also when epochs shrink.
    assert watch.rates == [0.02 * 0.5 ** (step // 4) for step in range(trainer.state.global_step)]
    recorded = run_results(trainer, data="noise")["optimisation"]
    expected = {"optimiser": "AdamW", "learning_rate": 0.02, "weight_decay": 0.03, "lr_schedule": "StepLR"}
    assert {name: recorded[name] for name in expected} == expected
    assert recorded["momentum"] is recorded["lr_decay_rate"] is recorded["lr_decay_epochs"] is None


def test_an_own_class_of_optimizers_is_used_and_recorded(tmp_path):
    own = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.5})}
    trainer = make_trainer(tmp_path, method="crd", **own, **SHORT)
    trainer.train()
    held = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert held == sum(weight.requires_grad for weight in trainer.model.parameters())
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.03
    recorded = run_results(trainer, data="noise")["optimisation"]
    assert (recorded["optimiser"], recorded["learning_rate"], recorded["momentum"]) == ("SGD", 0.03, 0.5)


def test_optimizers_that_do_not_fit_are_refused(tmp_path):
    student = network()
    optimizer, other = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (student, network()))
    scheduler = torch.optim.lr_scheduler.StepLR(other, 1)
    cls = (torch.optim.SGD, {"lr": 0.1})
    for options, error, message in (
        ({"optimizers": optimizer}, TypeError, "optimizers is a SGD: give a pair"),
        ({"optimizers": (optimizer, scheduler)}, ValueError, "scheduler of another optimizer"),
        ({"optimizers": (None, scheduler)}, ValueError, "scheduler of another optimizer"),
        ({"optimizers": (optimizer, object())}, TypeError, "in the place of a scheduler"),
        ({"optimizers": (torch.optim.SGD, None)}, TypeError, "the class SGD in the place"),
        ({"optimizers": (optimizer, None), "optimizer_cls_and_kwargs": cls}, ValueError, "leave out one"),
        ({"optimizer_cls_and_kwargs": torch.optim.SGD}, TypeError, "give a class and its arguments"),
    ):
        with pytest.raises(error, match=message):
            make_trainer(tmp_path / "run", model=student, **options)
    assert not (tmp_path / "run").exists()


# ---- Students made for each training ----


def new_student(trial=None):
    with torch.random.fork_rng():
        return network(5)


def searching_trainer(out, **options):
    args = config(out, **{**SHORT, "method": "fitnet", **options})
    callbacks = [KCDTrainerCallback(PAPER)]
    sets = {"train_dataset": TRAIN, "eval_dataset": EVAL, "callbacks": callbacks}
    return DistillationTrainer(model_init=new_student, teacher=network(9), args=args, **sets)


def test_each_training_begins_with_a_new_student_and_the_arguments_of_then(tmp_path):
    trainer = searching_trainer(tmp_path)
    trainer.train()
    first, teacher = outcome(trainer), trainer.teacher
    trainer.train()
    assert not differing(first, outcome(trainer))
    assert trainer.teacher is teacher
    trainer.args.num_train_epochs, trainer.args.per_device_train_batch_size = 4, 8
    trainer.train()
    again = searching_trainer(tmp_path, num_train_epochs=4, per_device_train_batch_size=8, lr_decay_epochs=[2])
    again.train()
    assert trainer.state.epoch == 4
    assert_same_end(trainer, again)


def test_a_trial_is_the_training_with_its_arguments(tmp_path):
    optuna = pytest.importorskip("optuna", reason="trials are objects of a library that searches")
    found = {"learning_rate": 0.02, "num_train_epochs": 4, "seed": 5, "method_options": {"kd_weight": 0.5}}
    trainer = searching_trainer(tmp_path / "search", lr_decay_epochs=None)
    # As hyperparameter_search sets them before it calls train.
    trainer.hp_search_backend, trainer.hp_name, trainer.hp_space = HPSearchBackend.OPTUNA, None, lambda trial: found
    trainer.train(trial=optuna.trial.FixedTrial({}, number=0))
    alone = searching_trainer(tmp_path / "alone", lr_decay_epochs=None, **found)
    alone.train()
    assert_same_end(trainer, alone)
    assert (tmp_path / "search" / "run-0" / "stages").is_dir()
    trainer.hp_space = lambda trial: {"final_ratio": 0.5}
    with pytest.raises(ValueError, match="final_ratio is no field of DistillationConfig"):
        trainer.train(trial=optuna.trial.FixedTrial({}, number=1))


def test_hyperparameter_search_with_optuna(tmp_path):
    pytest.importorskip("optuna", reason="transformers searches with a library of these")
    trainer = searching_trainer(tmp_path, eval_strategy="epoch")
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", [1e-9, 0.05])},
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        direction="maximize",
        n_trials=3,
    )
    for name, value in best.hyperparameters.items():
        setattr(trainer.args, name, value)
    trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == best.objective


def test_model_init_is_refused_where_it_cannot_be(tmp_path):
    student = network()
    for options, error, message in (
        ({"model": student, "model_init": new_student}, ValueError, "both came"),
        ({}, ValueError, "neither came"),
        ({"model_init": "cifar_resnet8"}, TypeError, "a str: give a function that returns a student"),
        ({"model_init": lambda: nn.Linear(2, 2)}, ValueError, "Linear, which is not a timm network"),
    ):
        with pytest.raises(error, match=message):
            DistillationTrainer(teacher=network(9), args=config(tmp_path / "run"), train_dataset=TRAIN, **options)
    optimizers = (torch.optim.SGD(student.parameters(), lr=0.1), None)
    with pytest.raises(ValueError, match="optimizers is not taken with model_init.*optimizer_cls_and_kwargs"):
        DistillationTrainer(
            None, network(9), config(tmp_path / "run"), TRAIN, model_init=new_student, optimizers=optimizers
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="trial is not taken without model_init"):
        make_trainer(tmp_path).train(trial={"learning_rate": 0.1})


# ---- Callbacks ----


def test_a_condensation_added_after_construction_is_that_of_the_constructor(tmp_path):
    before = make_trainer(tmp_path / "before", PAPER, **SHORT)
    after = make_trainer(tmp_path / "after", **SHORT)
    after.add_callback(KCDTrainerCallback(PAPER))
    for trainer in (before, after):
        trainer.train()
    assert_same_end(before, after)
    assert run_results(after, data="noise")["condensation"] == PAPER.to_dict()
    assert (tmp_path / "after" / "stages" / "stage-01").is_dir()


def test_a_class_of_callbacks_condenses_as_an_instance(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[KCDTrainerCallback], num_train_epochs=41)
    assert trainer.kcd.condenser is not None and trainer.schedule.relative_cost < 1
    trainer = make_trainer(tmp_path, num_train_epochs=41)
    trainer.add_callback(KCDTrainerCallback)
    assert trainer.kcd.condenser is not None and trainer.schedule.relative_cost < 1


@pytest.mark.parametrize("way", ["pop_callback", "remove_callback"])
def test_a_condensation_that_is_removed_leaves_whole_epochs(tmp_path, way):
    trainer = make_trainer(tmp_path / "removed", PAPER, **SHORT)
    trainer.train()
    callback = trainer.kcd
    popped = getattr(trainer, way)(KCDTrainerCallback if way == "pop_callback" else callback)
    assert popped is (callback if way == "pop_callback" else None)
    assert trainer.kcd is None and len(trainer.train_dataset) == len(TRAIN)
    with pytest.raises(RuntimeError, match="no results yet"):
        run_results(trainer, data="noise")
    trainer.train()
    assert trainer.cost.relative_cost == 1
    with pytest.raises(RuntimeError, match="pass a KCDTrainerCallback"):
        _ = trainer.knowledge_mask


def test_condensations_that_cannot_be_added_are_refused(tmp_path, finished):
    trainer = make_trainer(tmp_path, PAPER)
    with pytest.raises(ValueError, match="remove_callback the first"):
        trainer.add_callback(KCDTrainerCallback(PAPER))
    with pytest.raises(ValueError, match="A mask fixes the points"):
        make_trainer(tmp_path, mask=finished("paper").trainer.knowledge_mask).add_callback(KCDTrainerCallback)

    class Removes(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            trainer.remove_callback(KCDTrainerCallback)

    trainer.add_callback(Removes())
    with pytest.raises(RuntimeError, match="before train"):
        trainer.train()
    trainer.remove_callback(Removes)
    trainer.remove_callback(KCDTrainerCallback)
    assert trainer.kcd is None


# ---- Image processors ----


def square_photographs(num: int = 16) -> datasets.Dataset:
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40] / 40
    waves = [np.stack([np.sin(k * x), np.cos(k * y), np.sin(k * (x + y))], -1) for k in range(4, 4 + num)]
    pixels = [(128 + 80 * wave + generator.normal(0, 10, wave.shape)).clip(0, 255).astype(np.uint8) for wave in waves]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return datasets.Dataset.from_dict({"image": pixels, "label": [i % 2 for i in range(num)]}, features)


def processor(**options):
    return transformers.ViTImageProcessor(
        **{"size": {"height": 24, "width": 24}, "image_mean": [0.4, 0.5, 0.6], **options}
    )


def processed_trainer(out, processing_class, data=None):
    data = square_photographs() if data is None else data
    student, teacher = (timm.create_model("test_resnet", num_classes=2) for _ in range(2))
    args = config(out, num_train_epochs=1, learning_rate=0.001)
    return DistillationTrainer(student, teacher, args, data, processing_class=processing_class)


def test_an_image_processor_prepares_the_images_and_is_saved(tmp_path):
    trainer = processed_trainer(tmp_path, processor())
    trainer.train()
    trainer.save_model()
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert (saved["image_processor_type"], saved["image_mean"]) == ("ViTImageProcessor", [0.4, 0.5, 0.6])
    prediction = trainer.predict(square_photographs()).predictions
    # transformers alone: the saved processor, and the saved weights behind the pipeline.
    loaded = transformers.ViTImageProcessor.from_pretrained(tmp_path)
    classify = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = classify(**loaded(square_photographs()["image"][:], return_tensors="pt")).logits
    assert np.abs(logits.numpy() - prediction).max() < 0.02 * np.ptp(prediction)
    answers = transformers.pipeline("image-classification", model=str(tmp_path))(square_photographs()[3]["image"])
    assert {answer["label"] for answer in answers} == {"a", "b"}
    shown = torch.from_numpy(prediction[3]).softmax(0).max().item()
    assert max(answer["score"] for answer in answers) == pytest.approx(shown, abs=0.02)


def test_image_processors_that_prepare_otherwise_are_refused(tmp_path):
    fixed = KnowledgeDataset(square_photographs(), seed=3)
    for given, data, message in (
        (transformers.CLIPTokenizer, None, "prepares no images.*AutoImageProcessor"),
        (processor(size={"height": 24, "width": 20}), None, "color squares"),
        (processor(resample=0), None, "otherwise than an evaluation, by .* gray levels.*config.json"),
        (processor(do_rescale=False), None, "otherwise than an evaluation"),
        (processor(), fixed, r"size 24, mean \(0.4, 0.5, 0.6\).*prepared with 40"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"processing_class .*{message}"):
            processed_trainer(tmp_path / "run", given, data)
    assert not (tmp_path / "run").exists()


def test_card_arguments_that_would_be_ignored_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, **SHORT)
    trainer.train()
    trainer.create_model_card(tasks="image-classification", dataset="me/leaves", tags="leaves")
    assert "me/leaves" in (tmp_path / "README.md").read_text()
    for wrong, message in (
        ({"tasks": "object-detection"}, "tasks is"),
        ({"dataset_args": "x"}, "dataset_args is not"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.create_model_card(**wrong)
        with contextlib.suppress(ConnectionError), pytest.raises(ValueError, match=message):
            trainer.push_to_hub("me/x", **wrong)


def test_a_student_in_eval_mode_by_a_callback_trains_on(tmp_path):
    class Evaluated(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            model.student.eval()

    trainer = make_trainer(tmp_path, None, [Evaluated()], num_train_epochs=2, lr_decay_epochs=[1])
    trainer.train()
    assert int(trainer.student.bn1.num_batches_tracked) == trainer.state.global_step
