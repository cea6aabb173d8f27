"""Methods by name: listed, described, created for networks that have what they read, and refused with the nearest name."""

import pytest
import timm
import torch

import hf_kcd.models  # noqa: F401  (registers the networks)
from hf_kcd.methods import (
    DistillationMethod,
    FirstPhase,
    TermMethod,
    available_methods,
    create_method,
    method_options,
    paper_of,
    register_method,
)
from hf_kcd.methods.facts import describe_method
from hf_kcd.methods.registry import get_method
from hf_kcd.models import ModelSpec


@register_method("test_reads_features")
class ReadsFeatures(DistillationMethod):
    student_reads = frozenset({"logits", "features", "preactivations"})
    teacher_reads = frozenset({"features"})


@register_method("test_terse")
class Terse(TermMethod):
    reads = ("logits", "embedding")
    weight = 7.0


def pair():
    torch.manual_seed(0)
    return [timm.create_model(name, num_classes=6) for name in ("cifar_resnet8", "cifar_resnet20")]


def test_methods_are_listed_sorted_and_created_from_networks_or_specs():
    student, teacher = pair()
    assert {"ce", "kd"} <= set(available_methods()) and available_methods() == sorted(available_methods())
    for one, other in ((student, teacher), (ModelSpec.of(student), ModelSpec.of(teacher))):
        method = create_method("kd", one, other, 50, temperature=2.0)
        assert (method.student_spec.name, method.teacher_spec.name) == ("cifar_resnet8", "cifar_resnet20")
        assert (method.num_points, method.temperature, method.first_phase) == (50, 2.0, None)
        assert (method.step_cost, create_method("ce", one, None, 50).step_cost) == (1.0, None)


def test_the_options_are_the_published_ones():
    terms = {"ce_weight": 1.0, "kd_weight": 0.0, "temperature": 4.0}
    contrast = {"embedding_dim": 128, "num_negatives": 16384, "score_temperature": 0.07, "momentum": 0.5, **terms}
    published = {
        "ce": {},
        "kd": {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0},
        "at": {"weight": 1000.0, **terms},
        "cc": {"common_dim": 128, "weight": 0.02, **terms},
        "nst": {"weight": 50.0, **terms},
        "ofd": {"weight": 0.001, **terms},
        "pkt": {"weight": 30000.0, **terms},
        "rkd": {"weight": 1.0, "distance_weight": 25.0, "angle_weight": 50.0, **terms},
        "sp": {"weight": 3000.0, **terms},
        "vid": {"weight": 1.0, **terms},
        "fitnet": {"weight": 100.0, "hint_layer": 2, "first_phase_epochs": 0, **terms},
        "ab": {"weight": 1.0, "margin": 1.0, "first_phase_epochs": 30, **terms},
        "fsp": {"weight": 1.0, "first_phase_epochs": 30, **terms},
        "ft": {
            **{"weight": 200.0, "factor_ratio": 0.5, "first_phase_epochs": 30, "first_phase_learning_rate": 0.01},
            **terms,
        },
        "reviewkd": {"weight": 5.0, "warmup_epochs": 20.0, "max_fusion_channels": 512, **terms},
        "crd": {"weight": 0.8, **contrast},
        "wcord": {"weight": 0.8, "local_weight": 0.05, **contrast},
        "dkd": {"ce_weight": 1.0, "alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup_epochs": 20.0},
        "dml": {"peers": None, "weight": 1.0, "temperature": 1.0},
        "one": {"num_branches": 3, "temperature": 3.0, "ramp_epochs": 80.0},
        "takd": {"kd_weight": 0.9, "temperature": 4.0},
        "dgkd": {"kd_weight": 1.0, "temperature": 5.0, "num_dropped": 1},
        "slkd": {
            **{"num_sl_teachers": 2, "alpha": 0.1, "temperature": 4.0, "fusion": None, "teacher_weight": 1.0},
            **{"self_learning_weight": 3.0, "first_phase_epochs": 0},
        },
        "unix": {"temperature": 4.0, "keep_ratio": 0.75, "base_ratio": 0.5, "steepness": 10.0, "cost_ratio": None},
        "sskd": {
            **{"ce_weight": 0.1, "kd_weight": 0.9, "rotation_weight": 2.7, "similarity_weight": 10.0},
            **{"temperature": 4.0, "rotation_temperature": 4.0, "similarity_temperature": 0.5},
            **{"rotation_keep_ratio": 1.0, "similarity_keep_ratio": 0.75},
            **{"first_phase_epochs": 60, "first_phase_learning_rate": 0.05, "first_phase_decay_epochs": (30, 45)},
        },
    }
    for name, options in published.items():
        assert method_options(name) == options, name
    assert method_options("test_terse") == {"weight": 7.0, **terms}
    # Tests register methods, too.
    own = {name for name in available_methods() if get_method(name).__module__.startswith("hf_kcd.")}
    assert own == set(published)


def test_a_class_declares_its_reads_weight_and_paper_and_needs_nothing_else():
    assert Terse.student_reads == Terse.teacher_reads == {"logits", "embedding"}
    student, teacher = pair()
    assert create_method("test_terse", student, teacher, 5).weight == 7.0
    assert create_method("test_terse", student, teacher, 5, weight=2.0).weight == 2.0
    assert paper_of("test_terse") == "" and paper_of("kd") == "Hinton et al., 2015"
    assert describe_method("test_terse", "cifar_resnet8", "cifar_resnet20", 5).paper == ""


def test_an_option_that_was_renamed_still_works_with_a_warning():
    student, teacher = pair()
    with pytest.warns(FutureWarning, match="initialisation_epochs of method 'fitnet' is now first_phase_epochs"):
        method = create_method("fitnet", student, teacher, 5, initialisation_epochs=3)
    assert method.first_phase == FirstPhase(epochs=3)
    with pytest.raises(ValueError, match="option of method 'kd' 'initialisation_epochs'"):
        create_method("kd", student, teacher, 5, initialisation_epochs=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kdd", {}, "Unknown method 'kdd'. Did you mean 'kd'"),
        ("KD", {}, "'kd'"),
        ("kd", {"temprature": 1}, "option of method 'kd' 'temprature'. Did you mean 'temperature'"),
        ("ce", {"temperature": 1}, "option of method 'ce'"),
        ("kd", {"teacher": None}, "needs a teacher.*'ce'"),
        # Options that nothing reads.
        ("at", {"temperature": 2}, "temperature is 2.*kd_weight is 0"),
        ("dgkd", {"num_dropped": 2}, "num_dropped is 2 of 1 teachers"),
        ("dml", {"teacher": None, "teacher_layers": [1]}, r"teacher_layers is \[1\].*no teacher"),
    ],
)
def test_errors_say_what_to_do(name, options, message):
    student, teacher = pair()
    with pytest.raises(ValueError, match=message):
        create_method(name, student, **{"teacher": teacher, "num_points": 5, **options})


OUT_OF_RANGE = {
    "kd": "temperature -1 nan, kd_weight -0.1, ce_weight inf",
    "takd": "kd_weight 0 1.2 nan, temperature -1",
    "dgkd": "kd_weight 0 1.2 nan, temperature -1, num_dropped -1",
    "one": "num_branches 1, ramp_epochs 0",
    "slkd": "num_sl_teachers 0, temperature 0, first_phase_epochs -1, self_learning_weight nan, alpha 1.5",
    "sskd": "rotation_weight -1, similarity_temperature 0, similarity_keep_ratio 1.5, first_phase_epochs 0 1.5, "
    "first_phase_learning_rate 0",
    "unix": "temperature 0, keep_ratio 0 48, base_ratio 1.5, steepness -1, cost_ratio 0",
    "crd": "embedding_dim 0, num_negatives 2.5, score_temperature 0.01 nan, momentum 1, weight -1",
    "wcord": "temperature 0, local_weight nan",
    "ab": "first_phase_epochs -1, margin -1",
    **{"fsp": "first_phase_epochs 1.5", "ft": "first_phase_learning_rate 0", "reviewkd": "warmup_epochs -1"},
    **{"rkd": "angle_weight nan", "dkd": "beta -1"},
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_options_out_of_range_are_named_with_their_value(name):
    spec = ModelSpec.of(timm.create_model("cifar_resnet8"))
    for option, *values in map(str.split, OUT_OF_RANGE[name].split(", ")):
        for value in map(float, values):
            with pytest.raises(ValueError, match=f"{option} (is )?{value}"):
                create_method(name, spec, spec, 5, **{option: value})


def test_a_name_is_registered_once_and_only_for_methods():
    with pytest.raises(ValueError, match="'kd' is registered already, as KD"):
        register_method("kd")(DistillationMethod)
    with pytest.raises(TypeError, match="not a class derived from"):
        register_method("test_no_method")(torch.nn.Linear)
    assert "test_no_method" not in available_methods()
    with pytest.raises(TypeError, match="ReadsFeatures defines no forward"):
        ReadsFeatures(None, None, 5).first_phase_losses(None, None, {})
    with pytest.raises(TypeError, match="Terse defines no term"):
        Terse(None, None, 5).term(None, None, {})


def test_a_method_gets_the_layers_that_were_chosen():
    student, teacher = timm.create_model("cifar_resnet8"), timm.create_model("test_vit")
    layers = {"student_layers": "stages", "teacher_layers": [1, 3, 5]}
    method = create_method("test_reads_features", student, teacher, 5, **layers)
    assert method.student_spec.feature_sizes == ((32, 32), (16, 16), (8, 8))
    assert method.student_spec.preactivation_channels == (16, 32, 64)
    assert method.teacher_spec.feature_sizes == ((10, 10),) * 3
    specs = ModelSpec.of(student), ModelSpec.of(teacher)
    assert create_method("test_reads_features", *specs, 5).teacher_spec.layers == (0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="its spec has layers: leave it out"):
        create_method("test_reads_features", *specs, 5, teacher_layers="stages")


@pytest.mark.parametrize("of", [lambda network: network, ModelSpec.of])
def test_a_method_is_not_created_for_a_network_without_what_it_reads(of):
    vit, resnet = timm.create_model("test_vit"), timm.create_model("cifar_resnet8")
    with pytest.raises(ValueError, match="'test_reads_features' reads .*preactivations.* of the student.*test_vit"):
        create_method("test_reads_features", of(vit), of(resnet), 5)
    assert create_method("test_reads_features", of(resnet), of(vit), 5).teacher_spec.name == "test_vit"
