"""What is overridden and used of transformers' Trainer is still there, with the parameters it had."""

import inspect

import pytest
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import CallbackHandler

from hf_kcd.training import DistillationTrainer, KCDTrainerCallback

# A method that transformers renames is overridden no more, and would silently never be called.
OVERRIDDEN = """
    train set_initial_training_values _init_training_state _prepare_for_training _run_epoch create_optimizer create_scheduler
    get_decay_parameter_names get_optimizer_cls_and_kwargs training_step _prepare_inputs compute_loss log
    floating_point_ops _get_grad_norm
    evaluate evaluation_loop get_eval_dataloader get_test_dataloader prediction_step
    save_model _save _save_checkpoint _load_from_checkpoint _load_best_model
    push_to_hub create_model_card init_hf_repo _push_from_checkpoint
""".split()  # noqa: SIM905
PASSED_ON = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_override_takes_what_the_installed_trainer_passes(name):
    own = list(inspect.signature(getattr(DistillationTrainer, name)).parameters.values())
    theirs = list(inspect.signature(getattr(Trainer, name)).parameters.values())
    assert getattr(DistillationTrainer, name) is not getattr(Trainer, name)
    passes_on = any(parameter.kind in PASSED_ON for parameter in own)
    named = [parameter.name for parameter in own if parameter.kind not in PASSED_ON]
    if name == "_run_epoch":  # called by keyword
        assert set(named) <= {parameter.name for parameter in theirs}
    elif name == "push_to_hub":  # called by keyword, and its first parameter is the repository
        assert set(named) >= {parameter.name for parameter in theirs if parameter.kind not in PASSED_ON}
        return
    else:
        assert named == [parameter.name for parameter in theirs][: len(named)]
    if not passes_on:
        assert len(named) == len(theirs)
    for parameter, other in zip(own, theirs, strict=False):
        if parameter.kind not in PASSED_ON and other.default is not inspect.Parameter.empty:
            assert parameter.default is not inspect.Parameter.empty, f"{name}: {parameter.name} has a default there"


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_train_end"])
def test_the_callback_listens_to_events_that_exist(event):
    assert event in vars(KCDTrainerCallback) and event in vars(TrainerCallback) and event in vars(CallbackHandler)
    own = list(inspect.signature(getattr(KCDTrainerCallback, event)).parameters)
    assert own == list(inspect.signature(getattr(TrainerCallback, event)).parameters)


def test_the_trainers_attributes_that_are_read_exist():
    assert list(inspect.signature(Trainer._get_output_dir).parameters) == ["self", "trial"]
    source = inspect.getsource(Trainer)
    for attribute in ("current_gradient_accumulation_steps", "_created_lr_scheduler", "push_in_progress"):
        assert f"self.{attribute}" in source
    # The three numbers that the shrinking epoch replaces, by place in the tuple.
    returned = inspect.getsource(Trainer.set_initial_training_values).rsplit("return", 1)[1]
    assert returned.replace(",", " ").strip(" ()\n").split() == [
        *("num_train_epochs", "num_update_steps_per_epoch", "num_examples", "num_train_samples"),
        *("total_train_batch_size", "steps_in_epoch", "max_steps"),
    ]


def test_no_other_method_of_the_trainer_is_overridden():
    layers = DistillationTrainer.__mro__[: DistillationTrainer.__mro__.index(Trainer)]
    members = [member for layer in layers for member in vars(layer).items()]
    own = {name for name, member in members if inspect.isroutine(inspect.unwrap(member))}
    assert {name for name in own & set(dir(Trainer)) if not name.startswith("__")} == set(OVERRIDDEN)
