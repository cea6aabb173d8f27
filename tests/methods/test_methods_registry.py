"""Methods by name: listed, made with their own options, and refused with the nearest name."""

import pytest
import timm
import torch

import hf_kcd.models  # noqa: F401  (registers the networks)
from hf_kcd.methods import DistillationMethod, available_methods, create_method, method_options, register_method
from hf_kcd.models import ModelSpec


def pair():
    torch.manual_seed(0)
    return (timm.create_model(name, num_classes=6) for name in ("cifar_resnet8", "cifar_resnet20"))


def test_methods_are_listed_sorted_and_made_from_networks_or_specs():
    student, teacher = pair()
    assert {"ce", "kd"} <= set(available_methods())
    assert available_methods() == sorted(available_methods())
    for one, other in ((student, teacher), (ModelSpec.of(student), ModelSpec.of(teacher))):
        method = create_method("kd", one, other, 50, temperature=2.0)
        assert isinstance(method, DistillationMethod)
        assert (method.student_spec.name, method.teacher_spec.name) == ("cifar_resnet8", "cifar_resnet20")
        assert (method.num_points, method.temperature) == (50, 2.0)


def test_the_options_of_kd_are_the_published_ones():
    assert method_options("kd") == {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4.0}
    assert method_options("ce") == {}


def test_a_method_says_what_it_reads():
    student, teacher = pair()
    assert create_method("ce", student, None, 5).teacher_reads == frozenset()
    assert create_method("kd", student, teacher, 5).teacher_reads == {"logits"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kdd", {}, "Unknown method 'kdd'. Did you mean 'kd'"),
        ("KD", {}, "'kd'"),
        ("kd", {"temprature": 1}, "option of method 'kd' 'temprature'. Did you mean 'temperature'"),
        ("ce", {"temperature": 1}, "option of method 'ce'"),
        ("kd", {"temperature": -1}, "temperature is -1"),
        ("kd", {"temperature": float("nan")}, "temperature is nan"),
        ("kd", {"kd_weight": -0.1}, "kd_weight is -0.1"),
        ("kd", {"ce_weight": float("inf")}, "ce_weight is inf"),
    ],
)
def test_what_cannot_be_made_says_why(name, options, message):
    student, teacher = pair()
    with pytest.raises(ValueError, match=message):
        create_method(name, student, teacher, 5, **options)
    with pytest.raises(ValueError, match="Unknown method"):
        method_options("nothing")


def test_kd_needs_a_teacher_and_says_what_does_not():
    student, _ = pair()
    with pytest.raises(ValueError, match=r"needs a teacher.*'ce'"):
        create_method("kd", student, None, 5)


def test_a_name_is_registered_once_and_only_for_methods():
    with pytest.raises(ValueError, match="'kd' is registered already, as KD"):
        register_method("kd")(DistillationMethod)
    with pytest.raises(TypeError, match="no class derived from"):
        register_method("test_no_method")(torch.nn.Linear)
    assert "test_no_method" not in available_methods()


def test_a_method_without_a_loss_says_where_it_belongs():
    class Empty(DistillationMethod):
        pass

    with pytest.raises(TypeError, match="Empty defines no forward"):
        Empty(None, None, 5)(None, None, {})
