"""ResNet-18 (He et al., 2015, arXiv:1512.03385) for small images: a 3x3 stem and no max-pool.

The net that adversarial-training papers call ResNet-18 on CIFAR: 11.17 million parameters for 10 classes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .norms import Norm, norm_layer


class BasicBlock(nn.Module):
    """``act(shortcut(x) + norm2(conv2(act(norm1(conv1(x))))))``."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        make_norm = norm_layer(norm)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = make_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = make_norm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, make_norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class CifarResNet18(nn.Module):
    """Four stages of two blocks, 64 to 512 channels, then the mean over pixels and a linear layer."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, norm: Norm = "batch") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.norm = norm_layer(norm)(64)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width, stride=stride, norm=norm))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 512, H/8, W/8)."""
        return self.blocks(F.relu(self.norm(self.stem(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, 512, H', W') to logits (B, K), or to pooled features (B, 512)."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))
