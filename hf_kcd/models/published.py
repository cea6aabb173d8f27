"""Top-1 accuracies that others published of each network trained alone, by source."""

PUBLISHED_SOURCES = {
    "CRD": "Tian et al., ICLR 2020, the weights of RepDistiller, which KCD's Table 1 cites (CIFAR-100)",
    "SSKD": "Xu et al., ECCV 2020, trained again (CIFAR-100)",
    "SLKD": "arXiv 2304.11923, Table 2 (CIFAR-100)",
    "KCD": "arXiv 2207.05409, Table 3, torchvision's weights (ImageNet)",
}

PUBLISHED_TOP1: dict[str, dict[str, float]] = {
    "cifar_wrn_40_2": {"CRD": 75.61, "SSKD": 76.46, "SLKD": 75.61},
    "cifar_wrn_16_2": {"CRD": 73.26, "SSKD": 73.64, "SLKD": 73.54},
    # KCD's Table 1 prints 73.26 for this student, which is the value of wrn_16_2.
    "cifar_wrn_40_1": {"CRD": 71.98, "SSKD": 72.24, "SLKD": 71.81},
    "cifar_resnet8": {"SLKD": 59.98},
    "cifar_resnet20": {"CRD": 69.06, "SSKD": 69.63},
    "cifar_resnet32": {"CRD": 71.14},
    "cifar_resnet56": {"CRD": 72.34, "SSKD": 73.44, "SLKD": 72.34},
    "cifar_resnet110": {"CRD": 74.31},
    "cifar_resnet8x4": {"CRD": 72.50, "SSKD": 72.51, "SLKD": 73.27},
    "cifar_resnet32x4": {"CRD": 79.42, "SSKD": 79.63, "SLKD": 79.42},
    # No SLKD: its Table 6 repeats the figures of other networks above its ResNet50.
    "cifar_resnet50": {"CRD": 79.34, "SSKD": 79.10},
    "cifar_vgg8": {"CRD": 70.36, "SSKD": 70.68, "SLKD": 71.02},
    "cifar_vgg11": {"SLKD": 71.91},
    "cifar_vgg13": {"CRD": 74.64, "SSKD": 75.38, "SLKD": 74.64},
    "cifar_mobilenetv2_half": {"CRD": 64.60, "SSKD": 65.79},
    "cifar_shufflenetv1": {"CRD": 70.50, "SSKD": 70.77},
    "cifar_shufflenetv2": {"CRD": 71.82, "SSKD": 73.12},
    # Printed as errors: 26.69 and 30.25.
    "resnet34": {"KCD": 73.31},
    "resnet18": {"KCD": 69.75},
}
"""Top-1 accuracy in percent by timm name, then by source."""
