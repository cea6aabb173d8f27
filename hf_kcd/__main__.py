"""`python -m hf_kcd` is `hf-kcd`, for `torchrun` and `accelerate launch` too."""

import runpy

if __name__ == "__main__":
    runpy.run_module("hf_kcd.cli.main", run_name="__main__", alter_sys=True)
