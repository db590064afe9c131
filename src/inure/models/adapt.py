"""adapt() gives any net parameters per domain; fold() makes a plain net of a mix; adapter_state() is what to ship."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..machine.precision import finest
from ..settings.errors import UserError
from .adapters import Adapters, Mix, attach
from .adapters.batchnorm import put_back
from .adapters.layers import give_back
from .adapters.lora import LowRank
from .adapters.stacks import Stacks, adapter_names, stacked_places, unstack
from .classifier import Classifier


def adapt(
    model: nn.Module,
    kind: str | Sequence[str] = "cls_token",
    domains: Sequence[str] = ("clean", "robust"),
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> Classifier:
    """A copy of ``model`` with parameters per domain; every domain starts equal to it, logits bit for bit.

    Args:
        model: Any net, or a ``Classifier``.
        kind: What exists per domain: one of ``inure list adapters``, or several.
        domains: Names, at least two. The first one is used where no mix is given.
        mean: Per channel, subtracted from images in [0, 1]; for nets that are not a ``Classifier`` yet.
        std: Per channel.
        options: ``prompt_tokens``, ``bottleneck_width``, ``lora_rank``, ``lora_mix``: see ``Adapters``.

    Raises:
        UserError: If the net has no part of that kind, has domains already, or a name is not known.
    """
    kinds = [kind] if isinstance(kind, str) else list(kind)
    settings = Adapters(kinds=kinds, domains=list(domains), **options)  # type: ignore[arg-type]
    model = copy.deepcopy(model)
    if isinstance(model, Classifier):
        if mean is not None or std is not None:
            raise UserError("mean, std", "numbers", "None: a Classifier normalises already")
        classifier = model
    else:
        classifier = Classifier(model, mean=mean, std=std).train(model.training)
    if classifier.mixture is not None:
        raise UserError("model", f"a net with domains {' | '.join(classifier.domains)}", "a net without domains")
    classifier.mixture = attach(classifier.net, settings)
    return classifier


@torch.no_grad()
def fold(model: Classifier, mix: Mix | None = None) -> Classifier:
    """A copy of ``model`` without domains, which computes what ``model`` computes under ``mix``, bit for bit.

    What was stacked becomes a plain parameter again, in a net of the original classes. Prompts and bottlenecks add
    layers; they stay, with the parameters of the mix.

    Args:
        model: A net with or without domains.
        mix: A domain or weights by name; None is the first domain.

    Raises:
        UserError: For a mix that is not the same for all images.
    """
    folded = copy.deepcopy(model)
    mixture = folded.mixture
    if mixture is None:
        if mix is not None:
            raise UserError("mix", mix, "None: this net has no domains")
        return folded
    choice = mixture.parse(mix, 1)
    if choice.domain is None and choice.weights is None:
        raise UserError("mix", "a mix per image", "a domain or weights by name")
    with mixture.using(choice, 0):
        for module, name in stacked_places(folded.net):
            unstack(module, name, getattr(module, name))
        for module in list(folded.net.modules()):
            if isinstance(module, Stacks) and not isinstance(module, LowRank):
                for parameter in module.parameters(recurse=False):
                    parameter.data = mixture.fold(parameter)[None].clone()
                    parameter.grad = None
        _fold_low_rank(folded.net)
        for module in folded.net.modules():
            put_back(module, mixture)
            if "prompt" not in module.__dict__:
                give_back(module)
    mixture.domains, mixture.whole = mixture.domains[:1], False
    folded.mixture = None
    return folded


def adapter_state(model: Classifier) -> dict[str, Tensor]:
    """The parameters and statistics that exist per domain, by name: a few hundred numbers to ship beside a backbone."""
    names = adapter_names(model)
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name in names}


@torch.no_grad()
def adapter_products(model: nn.Module) -> Tensor:
    """(K, K) inner products of the domains' parameters, all adapters together.

    From them follow the norm of any mix w, sqrt(w P w), and how far apart two domains are. On the model's device, in
    float64 where it has that.
    """
    names = adapter_names(model)
    stacks = [p for name, p in model.named_parameters() if name in names]
    rows = [p.reshape(len(p), -1).to(finest(p.device)) for p in stacks]
    return torch.stack([r @ r.T for r in rows]).sum(0)


class InDomain(nn.Module):
    """A net of images alone, in one of its domains or a mix of them; see ``in_domain``."""

    def __init__(self, model: nn.Module, mix: Mix) -> None:
        super().__init__()
        self.model, self.mix = model, mix

    def forward(self, x: Tensor) -> Tensor:
        """Logits under the mix."""
        return self.model(x, mix=self.mix)


def _fold_low_rank(net: nn.Module) -> None:
    for module in net.modules():
        lists: Any = getattr(module, "parametrizations", {})
        if "weight" in lists and isinstance(lists["weight"][0], LowRank):
            unstack(module, "weight", module.weight)  # pyright: ignore[reportArgumentType]
