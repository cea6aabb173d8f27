"""What is overridden and used of transformers' Trainer is still there, with the parameters it had."""

import inspect

import pytest
from transformers import Trainer

from hf_kcd.training import DistillationTrainer

# A method that transformers renames is overridden no more, and would silently never be called.
OVERRIDDEN = """
    train set_initial_training_values _init_training_state _run_epoch create_optimizer create_scheduler
    get_decay_parameter_names get_optimizer_cls_and_kwargs training_step _prepare_inputs compute_loss log
    floating_point_ops _get_grad_norm
    create_accelerator_and_postprocess call_model_init add_callback pop_callback remove_callback
    evaluate predict evaluation_loop get_eval_dataloader get_test_dataloader prediction_step _determine_best_metric
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


def test_the_trainer_takes_every_argument_of_transformers_trainer():
    own, theirs = inspect.signature(DistillationTrainer).parameters, inspect.signature(Trainer).parameters
    assert set(theirs) <= set(own)
    assert not any(parameter.kind in PASSED_ON for parameter in own.values())
    assert own["optimizers"].default == theirs["optimizers"].default == (None, None)


def test_no_other_method_of_the_trainer_is_overridden():
    layers = DistillationTrainer.__mro__[: DistillationTrainer.__mro__.index(Trainer)]
    members = [member for layer in layers for member in vars(layer).items()]
    own = {name for name, member in members if inspect.isroutine(inspect.unwrap(member))}
    assert {name for name in own & set(dir(Trainer)) if not name.startswith("__")} == set(OVERRIDDEN)
