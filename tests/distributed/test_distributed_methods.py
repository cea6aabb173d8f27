"""Every method by two processes: it ends, and both processes have trained one student and one set of adapters."""

import numpy as np
import pytest
from run_methods import RUNS
from safetensors.numpy import load_file


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_train_one_student_and_one_method(folder, run):
    ranks = [load_file(folder / f"{run}.rank{rank}.safetensors") for rank in range(2)]
    losses = ranks[0].pop("losses")
    # 60 points are 2 updates of 2 x 16; so are the 42 that are kept then.
    assert len(losses) == 4 and np.isfinite(losses).all() and (losses > 0).all()
    after = [{name: weight for name, weight in rank.items() if name.startswith("after.")} for rank in ranks]
    assert not [name for name in after[0] if not np.array_equal(after[0][name], after[1][name])]
    still = [name for name in after[0] if np.array_equal(after[0][name], ranks[0][name.replace("after.", "before.")])]
    # On rank 0, whose weights count: everything was trained except the adapters of a term of weight 0.
    left_out = RUNS[run][1] == {"weight": 0}
    adapters = [name for name in after[0] if left_out and name.startswith("after.method.")]
    assert sorted(still) == sorted(adapters)
