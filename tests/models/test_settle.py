"""Nets that cannot tell the images of a batch apart are found out, and their parts go through one after the other."""

import pytest
import timm
import torch
from torch import nn

from inure.models import Model, build
from inure.models.adapt import adapt
from inure.models.adapters import settle
from inure.models.adapters.stacks import adapter_names
from inure.settings.errors import UserError
from tiny import assert_same_state, state_of

_SMALL = {"depth": 2, "embed_dim": 24, "num_heads": 2}
_STAGES = {"img_size": 32, "window_size": 4, "depths": (1, 1), "embed_dim": 12, "num_heads": (1, 1)}
NETS = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, **_SMALL}),
    "beit": ("beit_base_patch16_224", {"img_size": 32, **_SMALL}),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 32, "patch_size": 16, **_SMALL}),
    "swin": ("swin_tiny_patch4_window7_224", _STAGES),
    "swinv2": ("swinv2_tiny_window8_256", _STAGES),
    "swinv2_cr": ("swinv2_cr_tiny_ns_224", _STAGES),
    "xcit": ("xcit_nano_12_p16_224", _SMALL),
    "cait": ("cait_xxs24_224", {"img_size": 32, **_SMALL}),
}
APART = [("beit", "lora"), ("eva", "lora"), ("swinv2", "lora"), ("swinv2", "bias"), ("xcit", "bias")]
"""The net multiplies by an adapted weight in code of its own."""
TOGETHER = [("vit", "lora"), ("vit", "bias"), ("vit", "norm"), ("beit", "norm"), ("eva", "bias"), ("swin", "lora"),
            ("swinv2", "norm"), ("swinv2_cr", "lora"), ("xcit", "lora"), ("cait", "bias")]  # fmt: skip
BOTH = ["clean", "robust"]
ROWS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class TokensFirst(nn.Module):
    """(N, B, D) inside, as torch's own transformer has it by default."""

    def __init__(self, tokens: int, *, scale: float = 1.0, head: float = 1.0) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=False, dropout=0.0)
        self.scale = nn.Parameter(torch.full((8,), scale))
        self.head = nn.Linear(8, 10)
        self.tokens = tokens
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(head)

    def forward(self, x):
        sequence = x.flatten(2).permute(2, 0, 1)[: self.tokens]
        return self.head((sequence + self.scale * self.encoder(sequence)).mean(0))


def net_of(name: str) -> nn.Module:
    architecture, settings = NETS[name]
    net = timm.create_model(architecture, num_classes=10, **settings).eval()
    with torch.no_grad():  # layer scales and zero norms would hide what the attentions do
        for key, parameter in net.named_parameters():
            if "gamma" in key or ("norm" in key and key.endswith("weight")):
                parameter.fill_(1.0)
    return net


def moved(net, scale: float = 0.3):
    """Every domain elsewhere."""
    names = adapter_names(net)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name in names and tensor.is_floating_point():
                tensor += scale * torch.randn(tensor.shape)
    return net


def assert_parts_are_passes(adapted, x=IMAGES, mix=BOTH) -> None:
    adapted, x = adapted.double(), x.double()
    half = len(x) // 2
    passes = torch.cat([adapted(x[:half], mix="clean"), adapted(x[half:], mix="robust")])
    assert not torch.allclose(adapted(x[half:], mix="clean"), passes[half:], rtol=1e-3), "the domains do not differ"
    found = adapted(x, mix=mix.double() if isinstance(mix, torch.Tensor) else mix)
    assert torch.allclose(found, passes, rtol=0, atol=1e-12 * max(1.0, float(passes.detach().abs().max())))


@pytest.mark.parametrize(("name", "kind"), APART)
@pytest.mark.parametrize("mix", [BOTH, ROWS], ids=["parts", "rows"])
def test_nets_that_read_an_adapted_weight_themselves_see_one_domain_at_a_time(name, kind, mix):
    adapted = adapt(net_of(name), kind)
    assert not adapted.mixture.whole
    expected = adapted(IMAGES)
    assert torch.allclose(adapted(IMAGES, mix=mix), expected, atol=1e-5), "before any training"
    assert adapted.mixture.whole
    assert_parts_are_passes(moved(adapted), mix=mix)


@pytest.mark.parametrize(("name", "kind"), TOGETHER)
@pytest.mark.parametrize("mix", [BOTH, ROWS], ids=["parts", "rows"])
def test_other_nets_take_several_domains_in_one_forward(name, kind, mix):
    adapted = adapt(net_of(name), kind)
    adapted(IMAGES, mix=mix)
    assert adapted.mixture.settled
    assert not adapted.mixture.whole
    assert_parts_are_passes(moved(adapted), mix=mix)


@pytest.mark.parametrize("name", ["vit", "beit", "eva", "swinv2"])
def test_both_factors_of_a_low_rank_update_get_the_gradients_of_separate_passes(name):
    adapted = moved(adapt(net_of(name), "lora")).double()
    x = IMAGES.double()
    stacks = {n: p for n, p in adapted.named_parameters() if n in adapter_names(adapted)}
    adapted(x, mix=BOTH).square().sum().backward()
    together = {n: p.grad for n, p in stacks.items()}
    adapted.zero_grad()
    for piece, mode in zip(x.chunk(2), BOTH, strict=True):
        adapted(piece, mix=mode).square().sum().backward()
    reached = set()
    for key, parameter in stacks.items():
        assert parameter.grad is not None
        assert torch.allclose(together[key], parameter.grad, rtol=1e-9, atol=1e-12), key
        for domain in (0, 1):
            if bool(parameter.grad[domain].any()):
                reached.add((key.rpartition(".")[2], domain))
    assert reached == {(factor, domain) for factor in ("down", "up") for domain in (0, 1)}


@pytest.mark.parametrize("tokens", [6, 16])  # 6 is no multiple of four images; 16 is: there the numbers must tell
@pytest.mark.parametrize("settings", [{}, {"scale": 1e-5}, {"head": 0.0}], ids=str)
@pytest.mark.parametrize("mix", [BOTH, ROWS], ids=["parts", "rows"])
def test_tokens_on_the_first_axis_are_no_images(tokens, settings, mix):
    adapted, x = adapt(TokensFirst(tokens, **settings).eval(), "norm"), torch.rand(4, 8, 4, 4)
    settle(adapted, x)
    assert adapted.mixture.whole
    adapted = moved(adapted, 1.0)
    with torch.no_grad():  # as after training
        adapted.net.scale.fill_(1.0)
        adapted.net.head.weight.normal_()
    assert_parts_are_passes(adapted, x, mix)


def test_bias_in_a_net_that_knows_one_mix_and_batch_norm_trains_by_separate_passes_alone():
    adapted = adapt(net_of("xcit"), "bias").train()
    with pytest.raises(UserError, match=r"method.statistics=separate") as caught:
        adapted(IMAGES, mix=BOTH)
    assert "\n" not in str(caught.value)
    assert adapted(IMAGES, mix="robust").shape == (4, 10)


@pytest.mark.parametrize("kinds", ["norm", "batchnorm", "all", ["lora", "head"], ["position", "bottleneck"]], ids=str)
def test_finding_out_changes_nothing_else(kinds):
    name = "test_efficientnet" if kinds in ("norm", "batchnorm", "all") else "test_vit"
    net = timm.create_model(name, num_classes=10, **({"img_size": 32} if name == "test_vit" else {}))
    adapted = adapt(net, kinds).train()
    adapted(IMAGES, mix="robust").sum().backward()
    before, generator = state_of(adapted), torch.get_rng_state()
    choice, batch = adapted.mixture.choice, adapted.mixture.batch
    settle(adapted, IMAGES.requires_grad_(False))
    assert adapted.mixture.settled
    assert_same_state(before, state_of(adapted))
    assert torch.equal(generator, torch.get_rng_state())
    assert (adapted.mixture.choice, adapted.mixture.batch) == (choice, batch)
    assert adapted.mixture.whole == (kinds == "all")


def test_a_net_that_draws_at_random_takes_nothing_from_the_global_generator():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

        def forward(self, x):
            return self.head(self.norm((x + 0.1 * torch.randn_like(x)).mean((2, 3))))

    adapted, x = adapt(Noisy(), "norm"), torch.rand(4, 8, 4, 4)
    generator = torch.get_rng_state()
    settle(adapted, x)
    assert torch.equal(generator, torch.get_rng_state())


def test_it_is_found_out_once_and_copies_know():
    adapted = adapt(net_of("beit"), "lora")
    adapted(IMAGES, mix="robust")
    assert not adapted.mixture.settled, "one domain for all images needs no trial"
    adapted(IMAGES, mix=BOTH)
    other, calls = adapt(net_of("vit"), "norm"), []
    other(IMAGES, mix=BOTH)
    other.net.patch_embed.register_forward_pre_hook(lambda *_: calls.append(1))
    other(IMAGES, mix=BOTH)
    assert calls == [1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["norm", "lora", "bottleneck"])
def test_the_rounding_of_half_precision_is_no_difference(dtype, kind):
    adapted = adapt(build(Model(name="vit_digits"), num_classes=10, shape=(1, 8, 8)), kind).to(dtype)
    settle(adapted, torch.rand(4, 1, 8, 8, dtype=dtype))
    assert not adapted.mixture.whole
    assert all(p.dtype == dtype for p in adapted.parameters())


def test_one_image_and_many_domains_are_enough_to_find_out():
    for name, whole in (("vit", False), ("beit", True)):
        adapted = adapt(net_of(name), "lora", domains=("clean", "linf", "l2"))
        settle(adapted, IMAGES[:1])
        assert adapted.mixture.whole == whole


def test_nets_without_numbers_are_left_as_they_are():
    with torch.device("meta"):
        adapted = build(Model(name="vit_digits", adapters="norm"), num_classes=10, shape=(1, 8, 8))  # pyright: ignore
        assert adapted(torch.empty(4, 1, 8, 8), mix=BOTH).shape == (4, 10)


def test_activation_checkpointing_is_refused_in_one_line():
    message = "model: got activation checkpointing in a net with domains; allowed off"
    net = net_of("vit")
    net.set_grad_checkpointing(True)
    with pytest.raises(UserError, match=message) as caught:
        adapt(net, "norm")
    assert "\n" not in str(caught.value)
    net.set_grad_checkpointing(False)
    adapted = adapt(net, "norm")
    adapted.net.set_grad_checkpointing(True)
    with pytest.raises(UserError, match=message):
        adapted(IMAGES, mix=BOTH)
    with pytest.raises(UserError, match=message):
        adapted(IMAGES, mix=BOTH)


def test_activation_checkpointing_that_is_turned_on_later_is_refused_in_a_single_domain_too():
    adapted = adapt(net_of("vit"), "norm").train()
    adapted.net.set_grad_checkpointing(True)
    with pytest.raises(UserError, match="activation checkpointing"):
        adapted(IMAGES, mix="robust").sum().backward()
