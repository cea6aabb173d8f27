"""One seed for everything that a run draws: new networks, the weights of a method, the training."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from transformers import set_seed

_seed: ContextVar[int | None] = ContextVar("seed", default=None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed all random generators for a block; in a block of the same seed it goes on with the numbers of that one."""
    if _seed.get() != seed:
        set_seed(seed)
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)
