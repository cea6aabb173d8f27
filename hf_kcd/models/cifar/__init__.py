"""The CIFAR networks of the papers. Importing this package registers them in timm."""

# timm groups networks by the last part of a module's name. A file called `resnet.py` would list ours among timm's own
# in `timm.list_models(module="resnet")`, so the families' files keep the prefix of their networks.
from . import cifar_mobilenetv2, cifar_resnet, cifar_shufflenet, cifar_vgg, cifar_wrn
from .network import CifarNetwork

__all__ = ["CifarNetwork", "cifar_mobilenetv2", "cifar_resnet", "cifar_shufflenet", "cifar_vgg", "cifar_wrn"]
