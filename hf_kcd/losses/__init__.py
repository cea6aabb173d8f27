"""The losses of the papers as pure functions: tensors in, a scalar out.

Tensors may have any floating dtype; the scalar has float64 if one of them has it, otherwise float32. The teacher's receive no
gradient. A ValueError names shapes that do not fit and options out of range.
"""

from .ab import ab_loss as ab_loss
from .at import at_loss as at_loss
from .cc import cc_loss as cc_loss
from .crd import crd_loss as crd_loss
from .dkd import dkd_loss as dkd_loss
from .fitnet import hint_loss as hint_loss
from .fsp import fsp_loss as fsp_loss
from .ft import ft_loss as ft_loss
from .kd import cross_entropy_loss as cross_entropy_loss
from .kd import dml_loss as dml_loss
from .kd import kd_loss as kd_loss
from .nst import nst_loss as nst_loss
from .ofd import ofd_loss as ofd_loss
from .ofd import ofd_margins as ofd_margins
from .one import one_loss as one_loss
from .pkt import pkt_loss as pkt_loss
from .reviewkd import hcl_loss as hcl_loss
from .rkd import rkd_loss as rkd_loss
from .slkd import slkd_loss as slkd_loss
from .sp import sp_loss as sp_loss
from .sskd import sskd_losses as sskd_losses
from .unix import unix_mask as unix_mask
from .vid import vid_loss as vid_loss
from .wcord import wcord_global_loss as wcord_global_loss
from .wcord import wcord_local_loss as wcord_local_loss
