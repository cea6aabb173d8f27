"""Logits as codes of 8 or 16 bits: packing, unpacking, and the sizes of what is stored."""

import math

import torch
from torch import Tensor

CODES = {8: torch.int8, 16: torch.int16}


def packed_layout(
    num_points: int, num_views: int, num_classes: int, top_k: int, bits: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return type and shape of every tensor of soft labels; with `top_k` 0 all classes are coded."""
    check_packing(num_views, num_classes, top_k, bits)
    rows = (num_points, num_views)
    layout = {"points": (torch.int64, rows[:1]), "low": (torch.float32, rows), "high": (torch.float32, rows)}
    if not 0 < top_k < num_classes:
        return layout | {"codes": (CODES[bits], (*rows, num_classes))}
    coded = (*rows, top_k)
    layout |= {"codes": (CODES[bits], coded), "classes": (class_dtype(num_classes), coded)}
    return layout | {"rest": (torch.float32, rows)}


def pack_logits(logits: Tensor, top_k: int, bits: int, temperature: float) -> dict[str, Tensor | None]:
    """Pack finite logits [B, classes] into the parts of `SoftLabels`: [B, M] or [B] each, None where it has none.

    `top_k` classes of each row are coded, 0 for all; at `temperature` the others keep their share of the probability.
    """
    logits = logits.double()
    num_classes = logits.shape[1]
    coded, classes = (logits, None) if not 0 < top_k < num_classes else logits.topk(top_k)
    # In the float32 that they are stored in, so that codes are rounded to what comes back.
    low, high = coded.amin(1).float(), coded.amax(1).float()
    offset, levels = 2 ** (bits - 1), 2**bits - 1
    step = ((high - low) / levels).double()[:, None]
    codes = ((coded - low.double()[:, None]) / step.where(step > 0, 1)).round().clamp(0, levels)
    packed = {"codes": (codes - offset).to(CODES[bits]), "low": low, "high": high, "classes": None, "rest": None}
    if classes is None:
        return packed
    # (C - k) exp(rest / T) is to the decoded classes what the others were to the coded ones.
    others = torch.logsumexp((logits / temperature).scatter(1, classes, -math.inf), 1)
    decoded = codes * step + low.double()[:, None]
    shift = torch.logsumexp(decoded / temperature, 1) - torch.logsumexp(coded / temperature, 1)
    rest = temperature * (others + shift - math.log(num_classes - top_k))
    return packed | {"classes": classes.to(class_dtype(num_classes)), "rest": rest.float()}


def unpack_logits(
    codes: Tensor, low: Tensor, high: Tensor, classes: Tensor | None, rest: Tensor | None, num_classes: int
) -> Tensor:
    """Undo `pack_logits`, without a host sync: float32 [B, num_classes]."""
    bits = 8 * codes.element_size()
    offset, levels = 2 ** (bits - 1), 2**bits - 1
    low, high = low[:, None], high[:, None]
    logits = (codes.float() + offset) * ((high - low) / levels) + low
    if classes is None or rest is None:
        return logits
    return rest[:, None].repeat(1, num_classes).scatter_(1, classes.long(), logits)


def check_packing(num_views: int, num_classes: int, top_k: int, bits: int) -> None:
    """Refuse numbers that soft labels cannot be made with."""
    if type(num_views) is not int or num_views < 1:
        raise ValueError(f"num_views is {num_views!r}: give at least 1 view of every point.")
    if type(top_k) is not int or not 0 <= top_k <= num_classes:
        raise ValueError(f"top_k is {top_k!r}: give 1 to {num_classes} classes, or 0 for all.")
    if bits not in CODES:
        raise ValueError(f"bits is {bits!r}: a logit is stored in 8 or 16 bits.")


def class_dtype(num_classes: int) -> torch.dtype:
    """Return the smallest type that holds the class ids."""
    return torch.uint8 if num_classes <= 2**8 else torch.int16 if num_classes <= 2**15 else torch.int32
