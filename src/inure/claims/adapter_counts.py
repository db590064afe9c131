"""How many parameters each adapter adds (Rebuffi et al., 2022, arXiv:2210.04886): counted on the live nets."""

from ..models import Model
from ..models.adapters import Kind
from .claim import Claim, Verdict
from .figures import dots
from .lab import Lab

_VIT, _RESNET = "vit_base_patch16_224", "resnet50"
EXPECTED: tuple[tuple[str, Kind, int], ...] = (
    (_VIT, "cls_token", 768),
    (_VIT, "norm", 38_400),
    (_VIT, "bias", 84_712),
    (_VIT, "position", 151_296),
    (_VIT, "patch_embed", 590_592),
    (_VIT, "head", 769_000),
    (_VIT, "bottleneck", 608_640),
    (_VIT, "lora", 294_912),
    (_VIT, "all", 86_567_656),
    (_RESNET, "norm", 53_120),
    (_RESNET, "batchnorm", 53_120),
    (_RESNET, "all", 25_557_032),
)
"""Net, adapter, parameters that one more domain adds: from the shapes of the nets."""


def count(name: str, kind: Kind) -> int:
    """Trainable numbers of one domain, on the meta device."""
    import torch

    from ..models import build
    from ..models.adapters.stacks import adapter_names

    with torch.device("meta"):
        net = build(Model(name=name, adapters=[kind]), num_classes=1000, shape=(3, 224, 224))  # type: ignore[arg-type]
    names = adapter_names(net)
    return sum(p[0].numel() for name, p in net.named_parameters() if name in names)


def parameters(lab: Lab) -> Verdict:
    """Section 1: 49 times fewer than norms. No training, the same at every scale."""
    found = {(net, kind): count(net, kind) for net, kind, _ in EXPECTED}
    token, norms = found[_VIT, "cls_token"], found[_VIT, "norm"]
    equal = all(found[net, kind] == expected for net, kind, expected in EXPECTED)
    rows = [
        [f"{net}, {kind}", f"{found[net, kind]:,}", f"{expected:,}", f"{found[net, kind] / token:.1f}"]
        for net, kind, expected in EXPECTED
    ]
    return Verdict(
        "reproduced" if equal else "not reproduced",
        "every count equals the one that follows from the shapes of the net",
        f"25 LayerNorms hold {norms:,} numbers, a token {token:,}: {norms / token:g} times as many. The paper says 49: "
        f"({norms:,} - {token:,}) / {token:,} = {(norms - token) / token:g} is one way to get it, none is confirmed",
        ["net, adapter", "counted", "expected", "times a class token"],
        rows,
        dots({f"{net}, {kind}": {"share": [value / found[net, "all"]]} for (net, kind), value in found.items()},
             "share of the net's parameters, %"),
        {"counts": {f"{net}/{kind}": value for (net, kind), value in found.items()}, "ratio": norms / token},
    )  # fmt: skip


COUNT_CLAIMS = (
    Claim(
        "adapters/parameters", "A class token has 49 times fewer parameters than all norms of a ViT-B/16", parameters
    ),
)
