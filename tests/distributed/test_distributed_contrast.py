"""CRD and WCoRD by two processes: both keep one memory, as a single process with their rows together does."""

import numpy as np
import pytest
from run_contrast import METHODS, NUM_STEPS, bare_method, rows
from safetensors.numpy import load_file
from small_runs import assert_equal


@pytest.fixture(scope="module")
def results(folder) -> dict[str, list[dict[str, np.ndarray]]]:
    """What each of two processes ended with, by training and by method."""
    names = ("whole", "resumed", *(f"memory_{name}" for name in METHODS))
    return {name: [load_file(folder / f"{name}.rank{rank}.safetensors") for rank in range(2)] for name in names}


def part(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_both_processes_keep_one_memory_through_a_condensed_training(results):
    first, second = results["whole"]
    assert_equal(part(first, "method."), part(second, "method."))
    # Between steps each process has running statistics of its own.
    students = [part(tensors, "student.") for tensors in (first, second)]
    assert_equal(*({name: each[name] for name in each if "running" not in name} for each in students))
    memory = part(first, "method.memory.")
    # Every point of the 150 was seen by one of the processes: its entry is no longer the noise of the start.
    for role in ("student", "teacher"):
        np.testing.assert_allclose(np.linalg.norm(memory[role], axis=1), 1, rtol=1e-5)
    assert set(memory["last_epoch"]) == {0, 1, 2, 3}
    sizes = [150, *(int(150 * 0.5 ** (stage / 4)) for stage in (1, 2, 3))]
    assert int(memory["step"]) == sum(-(-size // 32) for size in sizes)


def test_two_processes_resume_to_the_bit(results):
    for whole, resumed in zip(results["whole"], results["resumed"], strict=True):
        assert_equal(whole, resumed)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_remember_what_one_with_all_rows_does(results, name):
    single, totals = bare_method(name), []
    for step in range(NUM_STEPS):
        outputs, batch = rows(step)
        parts = single(*outputs, batch)
        totals.append([parts[key].item() for key in sorted(parts)])
    first, second = results[f"memory_{name}"]
    for key, tensor in single.state_dict().items():
        for tensors in (first, second):
            np.testing.assert_allclose(tensors[key], tensor.numpy(), rtol=1e-5, atol=1e-6, err_msg=key)
    parts, means = np.array(totals), (first["parts"] + second["parts"]) / 2
    # Every part except the transport within a batch is a mean over its rows.
    exact = slice(None) if name == "crd" else slice(0, 2)
    np.testing.assert_allclose(means[:, exact], parts[:, exact], rtol=1e-4, atol=1e-6)
