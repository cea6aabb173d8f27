"""The examples run as a newcomer starts them."""

import os
import subprocess
import sys
from pathlib import Path

from hf_kcd import KnowledgeMask
from hf_kcd.data import load_image_data

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_plain_loop_condenses_without_transformers(tmp_path):
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLES / "plain_loop.py"), str(tmp_path / "mask")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    mask = KnowledgeMask.from_pretrained(tmp_path / "mask")
    # 70 % of the 1,501 points, rounded down.
    assert len(mask.kept) == 1050
    assert len(mask.select(load_image_data("digits").train)) == 1050
    # A network that has learned nothing has 10 %.
    assert float(done.stdout.partition("top-1 of the student: ")[2].partition("%")[0]) > 50
