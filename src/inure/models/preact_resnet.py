"""PreActResNet-18 for small images: He et al., 2016 (arXiv:1603.05027), with a 3x3 stem and no max-pool.

The net of Wong et al., 2020 (fast_adversarial, arXiv:2001.03994) and Rice et al., 2020 (arXiv:2002.11569):
11.17 million parameters for 10 classes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .norms import Norm, norm_layer


class PreActBlock(nn.Module):
    """``shortcut(a) + conv2(act(norm2(conv1(a))))``, ``a = act(norm1(x))``; an identity shortcut takes x."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        make_norm = norm_layer(norm)
        self.norm1 = make_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = make_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        identity = stride == 1 and in_channels == out_channels
        self.shortcut = None if identity else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        activated = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.norm2(self.conv1(activated)))) + shortcut


class PreActResNet18(nn.Module):
    """Four stages of two blocks, 64 to 512 channels, then norm, ReLU, mean over pixels and a linear layer."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3, norm: Norm = "batch") -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(PreActBlock(channels, width, stride=stride, norm=norm))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm_layer(norm)(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 512, H/8, W/8), after the last norm and ReLU."""
        return F.relu(self.norm(self.blocks(self.stem(x))))

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
