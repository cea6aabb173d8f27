"""All trainings of this folder: `python -m torch.distributed.run --nproc-per-node 2 run_all.py <folder> <seconds>`."""

import faulthandler
import os
import sys
from pathlib import Path

import run_contrast
import run_kcd
import run_methods
import run_soft_labels

if __name__ == "__main__":
    # A process that waits forever for another one says where, and ends itself.
    faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
    # The first training makes the process group.
    for program in (run_kcd, run_contrast, run_methods, run_soft_labels):
        program.main(Path(sys.argv[1]), int(os.environ["RANK"]))
    # Under gloo the interpreter may abort on its way out, after everything has been done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
