"""The small net on which single-step adversarial training collapses within seconds: for digits at 16 x 16."""

from torch import Tensor, nn
from torch.nn import functional as F

from .norms import Norm, norm_layer

_HIDDEN = 128


class CNNDigits(nn.Module):
    """Convolutions of 16, 32 and 64 channels (3 x 3, strides 1, 2, 2) with a norm, then 128 hidden units.

    The net is built for one image size: its features are flattened, not pooled.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        img_size: tuple[int, int] = (16, 16),
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.block1 = _block(in_channels, 16, 1, norm)
        self.block2 = _block(16, 32, 2, norm)
        self.block3 = _block(32, 64, 2, norm)
        height, width = (-(-side // 4) for side in img_size)
        self.hidden = nn.Linear(64 * height * width, _HIDDEN)
        self.fc = nn.Linear(_HIDDEN, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 64, H/4, W/4), rounded up."""
        return self.block3(self.block2(self.block1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps those features to logits (B, K), or to the hidden units (B, 128)."""
        hidden = F.relu(self.hidden(x.flatten(1)))
        return hidden if pre_logits else self.fc(hidden)

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))


def _block(in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1), norm_layer(norm)(channels), nn.ReLU()
    )
