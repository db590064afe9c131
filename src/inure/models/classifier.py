"""The one model type of the library: images in [0, 1] to logits, normalised inside."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from ..settings.errors import UserError
from ..types import Images, Logits
from .adapters.mixture import Choice, Mix, Mixture
from .adapters.settling import settle

if TYPE_CHECKING:
    from ..data.readout import Readout


class Classifier(nn.Module):
    """``net((x - mean) / std)``, with the checks that turn a wrong input into one clear line.

    Args:
        net: Normalised images (B, C, H, W) to logits (B, K).
        num_classes: K; not checked if None.
        img_size: Height and width of the images, or one number for both; not checked if None.
        in_channels: C; not checked if None.
        mean: One number per channel, in [0, 1] pixel units. None leaves the mean where it is.
        std: One number per channel, in [0, 1] pixel units. None leaves the scale as it is.

    Note:
        ``mean`` and ``std`` are buffers (1, C, 1, 1), or (1, 1, 1, 1) where nothing was given. They are part
        of the state, so that a weights file says how its net wants to be fed.
    """

    mixture: Mixture | None = None
    """The domains and the mix in use of an adapted net; ``adapt`` and ``build`` set it."""
    readout: "Readout | None" = None
    """What the logits of the net pass through; ``read_as`` sets it."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        num_classes: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        in_channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.num_classes, self.in_channels = num_classes, in_channels
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.register_buffer("mean", _per_channel("mean", mean, in_channels, identity=0.0))
        self.register_buffer("std", _per_channel("std", std, in_channels, identity=1.0))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that have parameters of their own; an adapted net has at least two."""
        return self.mixture.domains if self.mixture is not None else ()

    def read_as(self, readout: "Readout | None") -> "Classifier":
        """This net with its logits passed through ``readout``: the same parameters, domains and mixes.

        Its ``num_classes`` are those of the readout. A net that is read so already is returned as it is; None, what
        sets of the net's own classes have, is for nets that are not read otherwise.

        Raises:
            UserError: If the readout is for another number of classes, or the net is read otherwise already.
        """
        if self.readout == readout:
            return self
        if readout is None or self.readout is not None or self.num_classes not in (None, readout.classes):
            given = f"{readout.name or 'a readout'}, for nets of {readout.classes} classes" if readout else None
            raise UserError("readout", given, f"a readout of {self.num_classes} classes, as this net has")
        other = copy.copy(self)
        other.readout, other.num_classes = readout, len(readout.groups)
        return other

    def forward(self, x: Images, mix: Mix | None = None, features: bool = False) -> Logits | tuple[Logits, Tensor]:
        """Logits (B, K) in the type of ``x``, float32 also under autocast.

        Args:
            x: (B, C, H, W), in [0, 1].
            mix: The domains to use; None is the first. A net without domains takes nothing else. A name or weights
                by name are folded into parameters before the net runs. A (B, K) tensor gives each image weights of
                its own; a sequence of names, each of so many equal parts of the batch its domain.
            features: Also return the pooled features (B, D) that the last layer saw, from the same forward.

        Raises:
            UserError: If the images, the mix or the net's output do not fit.
        """
        self._check_images(x)
        if self.mixture is None:
            if mix is not None:
                raise UserError("mix", mix, "None: this net has no domains")
            return self._run(x, features)
        self.mixture.refuse_repeats()
        choice = self.mixture.parse(mix, len(x))
        if self.mixture.apart(choice):
            return self._apart(x, choice, features)
        if len(x) and not (self.mixture.settled or self.mixture.uniform(choice) or torch.compiler.is_compiling()):
            settle(self, x)
            return self(x, mix, features)
        with self.mixture.using(choice, len(x)):
            return self._run(x, features)

    def _run(self, x: Images, features: bool) -> Any:
        z = (x - self.mean) / self.std
        if features:
            logits, pooled = _logits_and_features(self.net, z)
            return self._read(logits, x), pooled.to(x.dtype)
        return self._read(self.net(z), x)

    def _apart(self, x: Images, choice: Choice, features: bool) -> Any:
        """For adapters that only know one mix for a whole forward: part by part, or each image by itself."""
        mixture = self.mixture
        assert mixture is not None

        def one(weights: Tensor, image: Tensor) -> Any:
            with mixture.using(Choice(weights=weights), 1):
                return _each(lambda t: t[0], self._run(image[None], features))

        if choice.rows is not None:
            if self.training and any(isinstance(m, _BatchNorm) for m in self.modules()):
                raise UserError("mix", "a mix per image in train mode", "a domain for each part of the batch", "eval")
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels know no vmap
                return torch.func.vmap(one, chunk_size=16, randomness="different")(choice.rows.to(x.dtype), x)
        assert choice.parts is not None
        if self.training and any(isinstance(m, _BatchNorm) and m.running_mean is not None for m in self.modules()):
            allowed = "a forward for each domain: these adapters send parts through apart, and BatchNorm sees them so"
            raise UserError("mix", "parts of a batch in train mode", allowed, "method.statistics=separate")
        outputs = []
        for domain, piece in zip(choice.parts, x.chunk(len(choice.parts)), strict=True):
            with mixture.using(Choice(domain=domain), len(piece)):
                outputs.append(self._run(piece, features))
        if features:
            return tuple(torch.cat(column) for column in zip(*outputs, strict=True))
        return torch.cat(outputs)

    def _check_images(self, x: Images) -> None:
        # Python values only: nothing waits for the device, and nothing breaks a compiled graph.
        if not x.is_floating_point():
            raise UserError("images", str(x.dtype), "floats in [0, 1]", "x.float() / 255")
        channels, size = self.in_channels, self.img_size
        fits = x.ndim == 4 and channels in (None, x.shape[1]) and size in (None, (x.shape[2], x.shape[3]))
        if not fits:
            height, width = size or ("H", "W")
            expected = f"(B, {channels or 'C'}, {height}, {width})"
            raise UserError("images", str(tuple(x.shape)), expected, "model.img_size or other data")

    def _read(self, logits: Logits, x: Images) -> Logits:
        logits = self._checked(logits).to(x.dtype)
        return logits if self.readout is None else self.readout(logits)

    def _checked(self, logits: Logits) -> Logits:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else None
        outputs = self.num_classes if self.readout is None else self.readout.classes
        if shape is None or len(shape) != 2 or outputs not in (None, shape[1]):
            found = f"{type(self.net).__name__} with output {shape or type(logits).__name__}"
            raise UserError("model", found, f"a net whose output is one tensor (B, {outputs or 'K'})")
        return logits


def _each(function: Any, value: Any) -> Any:
    return tuple(function(v) for v in value) if isinstance(value, tuple) else function(value)


def _logits_and_features(net: nn.Module, z: Tensor) -> tuple[Tensor, Tensor]:
    if not (hasattr(net, "forward_features") and hasattr(net, "forward_head")):
        raise UserError("features", type(net).__name__, "a net with forward_features and forward_head")
    maps = net.forward_features(z)  # pyright: ignore[reportCallIssue]
    # The head runs twice on the maps: get_classifier() on the features is wrong for some nets of timm (a norm
    # inside the head of shvit and efficientvit_msra, auxiliary logits in volo, a pair of heads in deit).
    pooled = net.forward_head(maps, pre_logits=True)  # pyright: ignore[reportCallIssue]
    return net.forward_head(maps), pooled  # pyright: ignore[reportCallIssue]


def _per_channel(name: str, values: Sequence[float] | None, in_channels: int | None, *, identity: float) -> Tensor:
    if values is None:
        return torch.full((1, 1, 1, 1), identity)
    if in_channels is not None and len(values) != in_channels:
        raise UserError(name, list(values), f"{in_channels} numbers, one per channel")
    return torch.tensor([float(value) for value in values]).view(1, -1, 1, 1)
