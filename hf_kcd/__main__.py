"""`python -m hf_kcd` is `hf-kcd`, for `torchrun` and `accelerate launch` too."""

from .cli.main import main

if __name__ == "__main__":
    main()
