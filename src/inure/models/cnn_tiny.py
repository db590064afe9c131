"""A net that trains in seconds, for tests and examples: two convolutions, pooling, a linear layer."""

from torch import Tensor, nn
from torch.nn import functional as F


class CNNTiny(nn.Module):
    """Any number of channels and any image of at least one pixel; about 5,000 parameters."""

    def __init__(self, *, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc = nn.Linear(32, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 32, H/2, W/2)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, 32, H', W') to logits (B, K), or to pooled features (B, 32)."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))
