"""The fields of `TrainingArguments` that a `DistillationTrainer` cannot honor; docs/trainer.md lists all fields."""

from dataclasses import MISSING, fields
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import HubStrategy
from transformers.training_args import trainer_log_levels

from ..errors import unknown_name

_TOKENS = "images have no tokens"
_LENGTH = "images have no length: points are drawn at random"
_LANGUAGE = "it is for language models"
_NEEDED = "the trainer needs its default"

# Field: why its default is the only value.
REFUSED = {
    "auto_find_batch_size": "it changes the number of steps: set the batch size yourself",
    "label_smoothing_factor": "the method computes the loss",
    "average_tokens_across_devices": _TOKENS,
    "include_num_input_tokens_seen": _TOKENS,
    "include_tokens_per_second": _TOKENS,
    "length_column_name": _LENGTH,
    "train_sampling_strategy": _LENGTH,
    "group_by_length": _LENGTH,
    "neftune_noise_alpha": _LANGUAGE,
    "use_liger_kernel": _LANGUAGE,
    "liger_kernel_config": _LANGUAGE,
    "use_cache": _LANGUAGE,
    "optim_target_modules": "it is for GaLore and APOLLO, which are made for language models",
    "torch_empty_cache_steps": "a step leaves the cache alone: use smaller batches",
    "activation_checkpointing_kwargs": "timm's networks take no options for it",
    "gradient_checkpointing_kwargs": "timm's networks take no options for it",
    "eval_use_gather_object": "logits are tensors, which need no pickles between processes",
    "remove_unused_columns": f"{_NEEDED}: batches carry point ids",
    "label_names": f"{_NEEDED}: batches carry 'labels'",
    "logging_nan_inf_filter": f"{_NEEDED}: NaN and inf stop the training",
    "dataloader_in_order": f"{_NEEDED}: a resumed run could not repeat another order",
    "ignore_data_skip": "it would give a resumed epoch too many steps",
    "enable_jit_checkpoint": "a run that it stops would look finished: use hf_kcd.training.interruption.interruptible",
    "ddp_static_graph": "the graph of a method may change between steps",
    "fsdp": "a step needs all weights whole: launch with DDP (torchrun)",
    "fsdp_config": "a step needs all weights whole: launch with DDP (torchrun)",
    "deepspeed": "a step needs all weights whole: launch with DDP (torchrun)",
    "parallelism_config": "a step needs all weights whole: launch with DDP (torchrun)",
    "hub_token": "it would be written to disk: use `hf auth login` or HF_TOKEN",
}
# Parts of accelerator_config, likewise.
REFUSED_PARTS = {
    "split_batches": "per_device_train_batch_size is per device",
    "dispatch_batches": "each process loads its own batches",
    "even_batches": "all processes need equally many steps",
    "use_seedable_sampler": "a resumed run could not repeat the order of the points",
    "gradient_accumulation_kwargs": "use gradient_accumulation_steps",
}
_TRACKIO = ("space_id", "bucket_id", "static_space_id")
# Field, what it needs, whether the arguments have that.
_NEEDS = (
    ("save_steps", "save_strategy='steps'", lambda args: args.save_strategy == "steps"),
    ("eval_steps", "eval_strategy='steps'", lambda args: args.eval_strategy == "steps"),
    ("eval_delay", "an eval_strategy", lambda args: args.eval_strategy != "no"),
    *((f"trackio_{name}", "report_to='trackio'", lambda args: _reports(args, "trackio")) for name in _TRACKIO),
    ("dataloader_prefetch_factor", "dataloader_num_workers above 0", lambda args: args.dataloader_num_workers),
    ("dataloader_persistent_workers", "dataloader_num_workers above 0", lambda args: args.dataloader_num_workers),
    ("dataloader_multiprocessing_context", "dataloader_num_workers above 0", lambda args: args.dataloader_num_workers),
)


def check_fields(args: TrainingArguments) -> None:
    """Refuse, by name, values that would be ignored or break a run, before anything is set up.

    Raises:
        ValueError: With the field, its value, the reason and the way out.
    """
    defaults = {one.name: _default(one) for one in fields(args)}
    for name, reason in REFUSED.items():
        if name in defaults and not _is_default(getattr(args, name), defaults[name]):
            # A token must not reach a log.
            shown = "given" if name == "hub_token" else repr(getattr(args, name))
            raise ValueError(f"{name} is {shown}, but {reason}. Leave it out.")
    strategy = HubStrategy(args.hub_strategy)
    if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"hub_strategy is {strategy.value!r}, but checkpoints hold pickles, which are not published: use "
            "'every_save' or 'end'."
        )
    if isinstance(args.accelerator_config, dict):
        parts = [one.name for one in fields(AcceleratorConfig)]
        for name in args.accelerator_config:
            if name not in parts:
                raise unknown_name("part of accelerator_config", name, parts)
    if "tpu_metrics_debug" in str(args.debug):
        raise ValueError("tpu_metrics_debug in debug is for TPUs: leave it out.")
    for name in ("log_level", "log_level_replica"):
        if getattr(args, name) not in trainer_log_levels:
            raise unknown_name(name, getattr(args, name), trainer_log_levels)
    for name, need, has in _NEEDS:
        if getattr(args, name) != defaults[name] and not has(args):
            raise ValueError(f"{name} is {getattr(args, name)!r}, but has an effect only with {need}: set that too.")


def check_accelerator(args: TrainingArguments) -> None:
    """Refuse parts of `accelerator_config`, once it is read, that break the schedule or its exact resume."""
    parts = vars(args.accelerator_config)
    defaults = {"even_batches": True, "use_seedable_sampler": True, "split_batches": False}
    for name, reason in REFUSED_PARTS.items():
        if name in parts and parts[name] not in (None, defaults.get(name, False)):
            raise ValueError(f"{name} of accelerator_config is {parts[name]!r}, but {reason}. Leave it out.")


def _reports(args: TrainingArguments, name: str) -> bool:
    given = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    return name in given or "all" in given


def _default(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _is_default(value: Any, default: Any) -> bool:
    # Before it is set up, a configuration may hold False or "" for None or "no".
    return value == default or (not value and default in (None, "no", ""))
