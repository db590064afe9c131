"""Wide residual nets: Zagoruyko and Komodakis, 2016 (arXiv:1605.07146), without dropout.

WRN-28-10 has 36.48 and WRN-34-10 has 46.16 million parameters for 10 classes. SiLU instead of ReLU helps
robustness: Gowal et al., 2020 (arXiv:2010.03593).
"""

from typing import Literal

from torch import Tensor, nn

from ..settings.errors import UserError
from .norms import Norm, norm_layer

Activation = Literal["relu", "silu"]


class WideBlock(nn.Module):
    """``shortcut(a) + conv2(act(norm2(conv1(a))))``, ``a = act(norm1(x))``; an identity shortcut takes x."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm, act: nn.Module) -> None:
        super().__init__()
        make_norm = norm_layer(norm)
        self.act = act
        self.norm1 = make_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = make_norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        identity = stride == 1 and in_channels == out_channels
        self.shortcut = None if identity else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        activated = self.act(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.act(self.norm2(self.conv1(activated)))) + shortcut


class WideResNet(nn.Module):
    """Three stages of ``(depth - 4) / 6`` blocks with 16, 32 and 64 times ``width`` channels.

    Args:
        depth: 6 n + 4: 10, 16, 22, 28, 34, ...
        width: The factor on the channels.
        num_classes: K.
        in_channels: C.
        norm: The normalisation of every block.
        activation: The nonlinearity of every block.

    Raises:
        UserError: If no such depth exists.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise UserError("model.name", f"wrn{depth}_{width}", "wrnDEPTH_WIDTH, DEPTH in 10, 16, 22, 28, 34, ...")
        super().__init__()
        self.num_classes = num_classes
        self.act = nn.ReLU() if activation == "relu" else nn.SiLU()
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = 16
        for stage in range(3):
            for block in range((depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                out_channels = 16 * 2**stage * width
                blocks.append(WideBlock(channels, out_channels, stride=stride, norm=norm, act=self.act))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm_layer(norm)(channels)
        self.fc = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 64 width, H/4, W/4), after the last norm and activation."""
        return self.act(self.norm(self.blocks(self.stem(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps (B, 64 width, H', W') to logits (B, K), or to pooled features (B, 64 width)."""
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Linear:
        """The last layer."""
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))
