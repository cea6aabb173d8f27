"""The losses of the papers as pure functions: tensors in, a scalar out."""

from .ab import ab_loss
from .at import at_loss
from .cc import cc_loss
from .crd import crd_loss
from .cross_entropy import cross_entropy_loss
from .dkd import dkd_loss
from .dml import dml_loss
from .fitnet import hint_loss
from .fsp import fsp_loss
from .ft import ft_loss
from .kd import kd_loss
from .nst import nst_loss
from .ofd import ofd_loss, ofd_margins
from .one import one_loss
from .pkt import pkt_loss
from .reviewkd import hcl_loss
from .rkd import rkd_loss
from .slkd import slkd_loss
from .sp import sp_loss
from .sskd import sskd_losses
from .unix import unix_mask
from .vid import vid_loss
from .wcord import wcord_global_loss, wcord_local_loss

__all__ = [
    "ab_loss",
    "at_loss",
    "cc_loss",
    "crd_loss",
    "cross_entropy_loss",
    "dkd_loss",
    "dml_loss",
    "fsp_loss",
    "ft_loss",
    "hcl_loss",
    "hint_loss",
    "kd_loss",
    "nst_loss",
    "ofd_loss",
    "ofd_margins",
    "one_loss",
    "pkt_loss",
    "rkd_loss",
    "slkd_loss",
    "sp_loss",
    "sskd_losses",
    "unix_mask",
    "vid_loss",
    "wcord_global_loss",
    "wcord_local_loss",
]
