"""`hf-kcd distill` as a file, for `accelerate launch` and `torchrun`, which start files."""

import sys

from hf_kcd.cli.main import main

if __name__ == "__main__":
    main(["distill", *sys.argv[1:]])
