"""Small transformers of four families for 8 x 8 images, sure of themselves, on the way to float64 if asked."""

import timm
import torch
from torch import nn

from inure.models import Classifier

SHAPE, CLASSES = (3, 8, 8), 4


def vit(pool="token", depth=3):
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, embed_dim=16, depth=depth, num_heads=2, num_classes=CLASSES,
        global_pool=pool,
    )  # fmt: skip


def deit():
    """With a distillation token too."""
    return timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=8, patch_size=2, embed_dim=16, depth=3, num_heads=2,
        num_classes=CLASSES,
    )  # fmt: skip


def convit():
    """Four blocks; the class token is there in the last two."""
    return timm.create_model(
        "convit_tiny", img_size=8, patch_size=2, embed_dim=4, num_heads=4, depth=4, local_up_to_layer=2,
        num_classes=CLASSES,
    )  # fmt: skip


def swin():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=8, patch_size=1, window_size=2, embed_dim=8, depths=(2, 2),
        num_heads=(2, 2), num_classes=CLASSES,
    )  # fmt: skip


FAMILIES = {"vit": vit, "deit": deit, "convit": convit, "swin": swin}


def classifier(net: nn.Module, dtype: torch.dtype = torch.float32, seed: int = 0) -> Classifier:
    """In eval mode, with weights large enough that all branches matter."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in net.named_parameters():
            parameter.normal_(mean=float(parameter.ndim == 1 and "bias" not in name), std=0.3)
    return (
        Classifier(net, num_classes=CLASSES, img_size=8, in_channels=3, mean=[0.5] * 3, std=[0.25] * 3).to(dtype).eval()
    )


def images(size: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0):
    """(x, y)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, *SHAPE, generator=generator, dtype=dtype), torch.arange(size) % CLASSES
