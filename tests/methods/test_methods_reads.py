"""A method is made only for networks that hand out what it reads; specs know it as well as networks do."""

import pytest
import timm

import hf_kcd.models  # noqa: F401  (registers the networks)
from hf_kcd.methods import DistillationMethod, create_method, register_method
from hf_kcd.models import ModelSpec


@register_method("test_reads_features")
class ReadsFeatures(DistillationMethod):
    """A method that is only made."""

    student_reads = frozenset({"logits", "features", "preactivations"})
    teacher_reads = frozenset({"features"})


def test_a_method_is_given_the_layers_that_were_chosen():
    student, teacher = timm.create_model("cifar_resnet8"), timm.create_model("test_vit")
    method = create_method(
        "test_reads_features", student, teacher, 5, student_layers="stages", teacher_layers=[1, 3, 5]
    )
    assert method.student_spec.feature_sizes == ((32, 32), (16, 16), (8, 8))
    assert method.student_spec.preactivation_channels == (16, 32, 64)
    assert method.teacher_spec.feature_sizes == ((10, 10),) * 3
    specs = ModelSpec.of(student), ModelSpec.of(teacher)
    assert create_method("test_reads_features", *specs, 5).teacher_spec.layers == (0, 1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="its spec has layers already: leave it out"):
        create_method("test_reads_features", *specs, 5, teacher_layers="stages")


@pytest.mark.parametrize("of", [lambda network: network, ModelSpec.of])
def test_a_method_is_not_made_for_a_network_without_what_it_reads(of):
    vit, resnet = timm.create_model("test_vit"), timm.create_model("cifar_resnet8")
    with pytest.raises(ValueError, match="'test_reads_features' reads .*preactivations.* of the student.*test_vit"):
        create_method("test_reads_features", of(vit), of(resnet), 5)
    assert create_method("test_reads_features", of(resnet), of(vit), 5).teacher_spec.name == "test_vit"
