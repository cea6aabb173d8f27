"""What a launcher (torchrun, accelerate launch, mpirun) asks for through the environment: followed, or refused by name."""

import os

import torch
from transformers import TrainingArguments

# Where launchers write the number of processes; accelerate reads the same names.
_WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# What `accelerate launch` switches on and a step cannot do.
_REFUSED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG")
# What torchrun sets beside WORLD_SIZE and LOCAL_RANK; without them torch waits for processes that nobody started.
_GROUP = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def follow_launcher(args: TrainingArguments) -> None:
    """Set what the launcher asks for and the arguments leave open, so that it is also recorded; before devices are set up.

    Raises:
        ValueError: For what cannot be done, with the variable's name.
    """
    for name in _REFUSED:
        if _is_true(f"ACCELERATE_USE_{name}"):
            raise ValueError(f"ACCELERATE_USE_{name} is set, but a step needs all weights whole: launch without it.")
    if _launched_processes() > 1 or "LOCAL_RANK" in os.environ:
        _check_group()
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", str(args.gradient_accumulation_steps)):
        raise ValueError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {steps}, but the trainer accumulates "
            f"{args.gradient_accumulation_steps} batches: set gradient_accumulation_steps instead."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "fp16", "bf16"):
        raise ValueError(f"ACCELERATE_MIXED_PRECISION is {precision!r}: launch with 'no', 'fp16' or 'bf16'.")
    if not (args.fp16 or args.bf16):
        args.fp16, args.bf16 = precision == "fp16", precision == "bf16"
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no" and not args.torch_compile:
        args.torch_compile, args.torch_compile_backend = True, args.torch_compile_backend or backend
    # On a machine without an accelerator, accelerate makes one process of several unless told that CPUs are meant.
    several = _launched_processes() > 1 and not torch.accelerator.is_available()
    args.use_cpu = args.use_cpu or several or _is_true("ACCELERATE_USE_CPU")


def check_launch(args: TrainingArguments) -> None:
    """Refuse a launch whose processes would each train alone, and a precision that the device does not compute in."""
    launched = _launched_processes()
    if launched != args.world_size:
        raise ValueError(
            f"{launched} processes were launched, but the trainer has a group of {args.world_size}, so each would train "
            f"alone and write into {args.output_dir}. Launch with torchrun, or unset WORLD_SIZE."
        )
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("fp16 is given, but a CPU would compute in float32: leave it out, or use bf16.")


def _check_group() -> None:
    """Refuse a leftover of a launch, which names processes that do not exist."""
    missing = [name for name in _GROUP if name not in os.environ]
    by_mpi = any(name in os.environ for name in _WORLD_SIZES[1:])
    if missing and not by_mpi and not torch.distributed.is_initialized():
        found = [name for name in ("WORLD_SIZE", "LOCAL_RANK") if name in os.environ]
        raise ValueError(
            f"{' and '.join(found)} say that this is one of several processes, but {', '.join(missing)} are not set: "
            "start with torchrun, or unset them."
        )


def _launched_processes() -> int:
    sizes = (os.environ.get(name, "") for name in _WORLD_SIZES)
    return next((int(size) for size in sizes if size.isdigit()), 1)


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on", "y", "t")
