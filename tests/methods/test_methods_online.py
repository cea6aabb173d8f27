"""DML and ONE: networks and branches that learn together, in NumPy, and where their gradients go."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from formulas import cross_entropy, divergence, softmax
from tiny_runs import network

from hf_kcd.methods import create_method
from hf_kcd.models import ModelOutputs, ModelSpec, load_model, read_outputs

STUDENT = network(1)
SPEC = ModelSpec.of(STUDENT, reads={"logits"})
STUDENTS = ("resnet8", "resnet50", "wrn_16_2", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2")


def batch(rows: int = 6, size: int = 8, classes: int = 4):
    generator = torch.Generator().manual_seed(rows)
    images = torch.randn(rows, 3, size, size, generator=generator)
    return {"pixel_values": images, "labels": torch.randint(classes, (rows,), generator=generator)}


@pytest.mark.parametrize(
    ("options", "count"), [({}, 2), ({"peers": ["cifar_resnet8", "cifar_vgg8"], "temperature": 2.0, "weight": 0.5}, 3)]
)
def test_dml_is_each_networks_ce_and_mean_divergence_from_the_others(options, count):
    method = create_method("dml", SPEC, None, 8, **options)
    inputs, student = batch(), torch.randn(6, 4, requires_grad=True)
    twin = deepcopy(method)
    with torch.no_grad():
        logits = [student.detach().numpy(), *(peer(inputs["pixel_values"]).numpy() for peer in twin.peers)]
    assert len(logits) == count
    temperature, weight = options.get("temperature", 1.0), options.get("weight", 1.0)
    expected = {}
    for number, own in enumerate(logits):
        suffix = f"_peer_{number}" if number else ""
        others = [softmax(other, temperature) for i, other in enumerate(logits) if i != number]
        terms = [divergence(own, other, temperature) for other in others]
        expected |= {f"ce{suffix}": cross_entropy(own, inputs["labels"].numpy())}
        expected |= {f"dml{suffix}": weight * np.mean(terms)}
    parts = method(ModelOutputs(logits=student), None, inputs)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4)


def test_dml_targets_get_no_gradient_and_peers_are_untrained_networks_of_the_students_architecture():
    method = create_method("dml", SPEC, None, 8)
    student = torch.randn(6, 4, requires_grad=True)
    parts = method(ModelOutputs(logits=student), None, batch())
    peer = list(method.parameters())
    for name, own, other in (("dml", [student], peer), ("dml_peer_1", peer, [student])):
        assert torch.autograd.grad(parts[name], other, retain_graph=True, allow_unused=True) == (None,) * len(other)
        assert all(g is not None for g in torch.autograd.grad(parts[name], own, retain_graph=True))
    (peer,) = method.networks().values()
    assert peer.state_dict().keys() == STUDENT.state_dict().keys() and peer.num_classes == 4
    assert not torch.equal(peer.conv1.weight, STUDENT.conv1.weight)


def test_dml_refuses_peers_that_cannot_be():
    few, vit = "a list of at least one", "vit_tiny_patch16_224"
    cases = [("cifar_resnet8", few), ([], few), (["cifar_resnt8"], "cifar_resnet8"), ([vit], "224 x 224 only")]
    for peers, said in cases:
        with pytest.raises(ValueError, match=said):
            create_method("dml", SPEC, None, 8, peers=peers)


def outputs(model, inputs):
    return read_outputs(model, inputs["pixel_values"], {"logits", "features"})


@pytest.mark.parametrize("name", STUDENTS)
def test_one_branch_is_the_end_of_a_network_of_the_students_architecture(name):
    student = load_model(f"cifar_{name}", 10)
    method = create_method("one", student, None, 8, num_branches=2).eval()
    inputs = batch(2, 32, 10)
    # A network with the student's beginning and the branch's end.
    whole, (branch,) = deepcopy(student).eval(), method.branches
    end = branch.state_dict()
    assert 0 < len(end) < len(whole.state_dict())
    assert sum(p.numel() for p in branch.parameters()) < sum(p.numel() for p in whole.parameters())
    whole.load_state_dict(whole.state_dict() | end)
    with torch.no_grad():
        features = outputs(student.eval(), inputs).features
        assert torch.allclose(branch(features[-2]), whole(inputs["pixel_values"]), atol=1e-5)
    student.train()
    method.train()
    loss = sum(method(outputs(student, inputs), None, inputs).values())
    loss.backward()
    # Weights without a gradient would make DDP wait.
    assert loss.isfinite() and all(p.grad is not None for p in [*method.parameters(), *student.parameters()])


@pytest.mark.parametrize("epoch", [0.0, 40.0, 200.0])
def test_one_is_the_sum_of_the_paper(epoch):
    method, inputs = create_method("one", STUDENT, None, 8), batch()
    method.epoch = epoch
    twin = deepcopy(method)
    with torch.no_grad():
        student = outputs(deepcopy(STUDENT), inputs)
        trunk = student.features[-2]
        logits = [student.logits.numpy(), *(branch(trunk).numpy() for branch in twin.branches)]
        linear, norm = twin.gate.linear, twin.gate.norm
        scores = trunk.double().numpy().mean((2, 3)) @ linear.weight.double().numpy().T + linear.bias.double().numpy()
    scores = (scores - scores.mean(0)) / np.sqrt(scores.var(0) + norm.eps)
    gates = softmax(np.maximum(scores, 0), 1.0)
    ensemble = sum(gates[:, [i]] * branch for i, branch in enumerate(logits))
    labels = inputs["labels"].numpy()
    ramp = {0.0: math.exp(-5), 40.0: math.exp(-1.25)}.get(epoch, 1.0)
    target = softmax(ensemble, 3.0)
    expected = sum(cross_entropy(branch, labels) for branch in [*logits, ensemble])
    expected += ramp * sum(divergence(branch, target, 3.0) for branch in logits)
    parts = method(student, None, inputs)
    assert len(logits) == 3 and parts.keys() == {"one"}
    assert parts["one"].item() == pytest.approx(expected, rel=1e-4)
    # The other branches train the trunk too.
    trunk = torch.randn(6, 32, 4, 4, requires_grad=True)
    method(ModelOutputs(logits=torch.randn(6, 4), features=[None, None, trunk, None]), None, inputs)["one"].backward()
    assert trunk.grad.abs().sum() > 0


def test_one_takes_a_last_batch_of_a_single_image():
    method, inputs = create_method("one", STUDENT, None, 8), batch(1)
    before = method.gate.norm.running_mean.clone()
    loss = method(outputs(deepcopy(STUDENT), inputs), None, inputs)["one"]
    assert loss.isfinite() and torch.equal(method.gate.norm.running_mean, before)


def test_one_starts_its_branches_where_the_layers_say():
    method = create_method("one", STUDENT, None, 8, student_layers=[1, 3])
    assert method.gate.linear.in_features == 16
    (low, *_), (high, *_) = method.branches, create_method("one", STUDENT, None, 8).branches
    assert {name.split(".")[0] for name in low.state_dict()} == {"layer2", "layer3", "fc"}
    assert {name.split(".")[0] for name in high.state_dict()} == {"layer3", "fc"}


def test_one_refuses_what_it_cannot_cut():
    resnet = load_model("resnet10t", 4)
    with pytest.raises(ValueError, match="resnet10t.*cifar_"):
        create_method("one", resnet, None, 8)
    with pytest.raises(ValueError, match="1 feature maps cannot be cut"):
        create_method("one", STUDENT, None, 8, student_layers=[3])


def test_half_precision():
    with torch.autocast("cpu", torch.bfloat16):
        inputs = batch()
        found = outputs(deepcopy(STUDENT), inputs)
        parts = create_method("one", STUDENT, None, 8)(found, None, inputs)
        parts |= create_method("dml", SPEC, None, 8)(found, None, inputs)
    assert len(parts) == 5 and all(part.isfinite() and part.dtype == torch.float32 for part in parts.values())
