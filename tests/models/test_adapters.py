"""Parameters per domain: what a mix computes, against plain nets with the mixed parameters set by hand."""

import copy

import pytest
import timm
import torch
from torch import nn

import inure
from inure.models import Classifier, Model, build
from inure.models.adapt import adapt, adapter_state, fold
from inure.models.adapters import ADAPTERS, Adapters
from inure.models.adapters.stacks import adapter_names, plain_name
from inure.models.domains import in_domain
from inure.optimizers.groups import parameter_groups
from inure.settings.errors import UserError

VIT_KINDS = [k for k in ADAPTERS if k != "batchnorm"]
CNN_KINDS = ["norm", "batchnorm", "patch_embed", "head", "bias", "all"]
CASES = [
    *[("vit_digits", [kind]) for kind in VIT_KINDS],
    *[("wrn10_1", [kind]) for kind in CNN_KINDS],
    ("vit_digits", ["cls_token", "norm", "head"]),
    ("vit_digits", ["bias", "lora"]),
    ("vit_digits", ["norm", "bottleneck", "position", "prompt"]),
    ("vit_digits", ["prompt", "lora"]),
    ("vit_digits", ["prompt", "bias"]),
]
cases = pytest.mark.parametrize(
    ("name", "kinds"), CASES, ids=lambda value: "+".join(value) if isinstance(value, list) else value
)
HALF = {"clean": 0.3, "robust": 0.7}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def plain(name: str) -> Classifier:
    net = build(Model(name=name), num_classes=10, shape=(1, 8, 8))
    with torch.no_grad():
        net(torch.rand(32, 1, 8, 8))  # statistics as after training
    return net.eval()


def apart(net: Classifier, scale: float = 0.3) -> Classifier:
    """Move every domain but the first away from it."""
    names = adapter_names(net)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name in names and tensor.is_floating_point():
                shift = (
                    scale * torch.rand(tensor[1:].shape)
                    if "variances" in name
                    else scale * torch.randn(tensor[1:].shape)
                )
                tensor[1:].add_(shift)
    return net


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8)


@cases
def test_every_domain_starts_equal_to_the_net_bit_for_bit(name, kinds):
    net, x = plain(name), images()
    adapted = adapt(net, kinds)
    for mix in (None, "clean", "robust", ["clean", "robust"]):
        expected = net(x) if isinstance(mix, str | None) else torch.cat([net(x[:3]), net(x[3:])])
        assert torch.equal(adapted(x, mix=mix), expected) or (
            isinstance(mix, list) and torch.allclose(adapted(x, mix=mix), expected, atol=1e-6)
        )
    assert net.domains == ()
    assert adapted.domains == ("clean", "robust")


@cases
def test_the_other_domain_plays_no_part(name, kinds):
    adapted, x = adapt(plain(name), kinds), images()
    before = adapted(x, mix="clean")
    apart(adapted)
    assert torch.equal(adapted(x, mix="clean"), before)
    assert not torch.allclose(adapted(x, mix="robust"), before, atol=1e-3)


@cases
@pytest.mark.parametrize("mix", ["clean", "robust", HALF, {"clean": -0.4, "robust": 1.4}], ids=str)
def test_folding_is_what_a_mix_computes_bit_for_bit(name, kinds, mix):
    adapted, x = apart(adapt(plain(name), kinds), 0.05), images()
    folded = fold(adapted, mix)
    assert folded.domains == ()
    assert torch.equal(folded(x), adapted(x, mix=mix))
    with pytest.raises(UserError, match="mix: got clean; allowed None: this net has no domains"):
        folded(x, mix="clean")
    if not {"prompt", "bottleneck"} & {*kinds}:
        assert folded.state_dict().keys() == plain(name).state_dict().keys()
        assert [type(m) for m in folded.modules()] == [type(m) for m in plain(name).modules()]
    assert torch.equal(adapted(x, mix=mix), folded(x)), "folding a copy changed the net"


@cases
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_mix_per_image_agrees_with_folding(name, kinds, dtype, tolerance):
    adapted, x = apart(adapt(plain(name), kinds), 0.05).to(dtype), images().to(dtype)
    weights = torch.tensor([-0.4, 0.0, 0.3, 0.7, 1.0, 1.4], dtype=torch.float64)
    rows = torch.stack([weights, 1 - weights], 1).to(dtype)
    mixed = adapted(x, mix=rows)
    for image, row, logits in zip(x, rows, mixed, strict=True):
        alone = adapted(image[None], mix={"clean": float(row[0]), "robust": float(row[1])})
        assert torch.allclose(alone[0], logits, rtol=0, atol=tolerance * max(1.0, float(alone.detach().abs().max())))


@cases
def test_parts_of_a_batch_are_separate_passes_in_eval_mode(name, kinds):
    adapted, x = apart(adapt(plain(name), kinds)).double(), images().double()
    together = adapted(x, mix=["robust", "clean"])
    apart_ = torch.cat([adapted(x[:3], mix="robust"), adapted(x[3:], mix="clean")])
    assert torch.allclose(together, apart_, rtol=0, atol=1e-12)


@cases
def test_gradients_reach_the_domain_in_use_and_no_other(name, kinds):
    adapted, x = apart(adapt(plain(name), kinds), 0.05).train(), images()
    adapted(x, mix=["robust", "robust"]).sum().backward()
    names = adapter_names(adapted)
    reached = 0
    for parameter_name, parameter in adapted.named_parameters():
        if parameter_name in names and parameter.grad is not None:
            assert not parameter.grad[0].any(), parameter_name
            reached += bool(parameter.grad[1].any())
    assert reached


def test_an_affine_mix_of_the_class_token_is_the_net_with_that_token():
    net = plain("vit_digits")
    adapted, x = apart(adapt(net)), images()
    clean, robust = adapter_state(adapted)["net.parametrizations.cls_token.original"]
    with torch.no_grad():
        net.net.cls_token.copy_(0.3 * clean + 0.7 * robust)
    assert torch.equal(adapted(x, mix=HALF), net(x))


def test_dual_params_norm_is_layer_norm_with_each_images_own_scale():
    norm = nn.LayerNorm(5)
    adapted = apart(adapt(nn.Sequential(norm, nn.Flatten(), nn.Linear(15, 2)), "norm").eval())
    x = torch.randn(4, 3, 5)
    layer: nn.Module = adapted.net[0]
    stacks = {k.rpartition(".")[0].rpartition(".")[2]: v for k, v in adapter_state(adapted).items()}
    rows = torch.tensor([[0.2, 0.8], [1.0, 0.0], [-0.4, 1.4], [0.7, 0.3]])
    with adapted.mixture.using(adapted.mixture.parse(rows, 4), 4):
        found = layer(x)
    for image, row, output in zip(x, rows, found, strict=True):
        normalised = (image - image.mean(-1, keepdim=True)) / (
            image.var(-1, keepdim=True, correction=0) + norm.eps
        ).sqrt()
        scale, shift = (row[0] * stacks[n][0] + row[1] * stacks[n][1] for n in ("weight", "bias"))
        assert torch.allclose(output, normalised * scale + shift, atol=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_batch_statistics_are_joint_for_norm_and_apart_for_batchnorm(joint):
    norm = nn.BatchNorm2d(3)
    adapted = adapt(nn.Sequential(norm, nn.Flatten(), nn.Linear(48, 2)), "norm" if joint else "batchnorm").train()
    x = torch.randn(8, 3, 4, 4) * torch.tensor([1.0] * 4 + [3.0] * 4).view(-1, 1, 1, 1) + 1
    adapted(x, mix=["clean", "robust"])
    layer = adapted.net[0]
    sets = [x] if joint else [x[:4], x[4:]]
    means = [0.1 * s.mean((0, 2, 3)) for s in sets]
    found = layer.running_mean[None] if joint else layer.means
    assert torch.allclose(found, torch.stack(means), atol=1e-6)


def test_mixed_batch_statistics_are_those_of_the_mixture():
    adapted = apart(adapt(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2)), "batchnorm").eval())
    layer = adapted.net[0]
    generator = torch.Generator().manual_seed(0)
    draws = [
        layer.means[k] + layer.variances[k].sqrt() * torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
        for k in (0, 1)
    ]
    mean, variance = layer.mixed_statistics((0.25, 0.75))
    mixed = torch.cat([draws[0][:50_000], draws[1][:150_000]])
    assert torch.allclose(mean.double(), mixed.mean(0), atol=0.02)
    assert torch.allclose(variance.double(), mixed.var(0), rtol=0.03)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("robus", r"mix: got robus; allowed clean \| robust; try robust"),
        ({"clean": 0.5}, r"mix: got .*; allowed weights of clean \| robust whose sum is 1"),
        ({"clean": 0.5, "robust": 0.6}, "whose sum is 1"),
        ({"clean": float("nan"), "robust": 1.0}, "whose sum is 1"),
        ({"noisy": 1.0}, "mix: got noisy"),
        (torch.ones(5, 2), r"mix: got torch.float32 \(5, 2\); allowed floats \(6, 2\)"),
        (torch.ones(6, 2), "mix: got a row with another sum"),
        (torch.ones(6, 2, dtype=torch.long), "mix: got torch.int64"),
        (["clean"] * 4, "as many as equal parts of the batch of 6"),
        (3, "mix: got 3; allowed a domain"),
    ],
    ids=str,
)
def test_a_mix_that_makes_no_sense_is_a_value_error_that_names_the_domains(mix, message):
    adapted = adapt(plain("vit_digits"))
    with pytest.raises(ValueError, match=message):
        adapted(images(), mix=mix)
    assert adapted.mixture.choice.domain == 0


def test_an_exception_inside_leaks_no_mode():
    adapted, x = apart(adapt(plain("vit_digits"))), images()
    mixes = [None, "robust", HALF, ["clean", "robust"], torch.tensor([[0.2, 0.8]]).repeat(6, 1)]
    before = [adapted(x, mix=mix) for mix in mixes]

    class Bad(nn.Module):
        def forward(self, x):
            raise RuntimeError("inside")

    head, adapted.net.head = adapted.net.head, Bad()
    for mix in mixes:
        with pytest.raises(RuntimeError, match="inside"):
            adapted(x, mix=mix)
        assert (adapted.mixture.choice.domain, adapted.mixture.batch) == (0, 0)
    adapted.net.head = head
    for mix, logits in zip(mixes, before, strict=True):
        assert torch.equal(adapted(x, mix=mix), logits)


def test_more_than_two_domains_and_extrapolation():
    adapted, x = apart(adapt(plain("vit_digits"), domains=("clean", "linf", "l2"))), images()
    mix = {"clean": -0.4, "l2": 1.4}
    assert torch.equal(fold(adapted, mix)(x), adapted(x, mix=mix))
    rows = torch.tensor([[-0.4, 0.0, 1.4]]).repeat(6, 1)
    assert torch.allclose(adapted(x, mix=rows), adapted(x, mix=mix), atol=1e-5)


def test_a_copy_and_its_original_are_independent():
    adapted, x = apart(adapt(plain("vit_digits"), ["cls_token", "norm"])), images()
    other = copy.deepcopy(adapted)
    expected = adapted(x, mix="robust")
    apart(other)
    fold(other, "robust")
    assert torch.equal(adapted(x, mix="robust"), expected)
    assert other.mixture is not adapted.mixture


def test_a_compiled_net_takes_every_mix_in_one_graph():
    net, x = plain("vit_digits"), images()
    net.net.blocks = net.net.blocks[:2]  # each takes seconds
    adapted = apart(adapt(net, ["cls_token", "norm"]))
    torch._dynamo.reset()
    compiled = torch.compile(adapted, fullgraph=True, backend="aot_eager")
    rows = torch.tensor([[0.5, 0.5]]).repeat(6, 1)
    for mix in ("robust", rows, ["clean", "robust"]):
        assert torch.allclose(compiled(x, mix=mix), adapted(x, mix=mix), atol=1e-5)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def large():
    """A ViT-B/16 and a ResNet-50 without numbers: to be copied."""
    with torch.device("meta"):
        return {
            name: build(Model(name=name), num_classes=1000, shape=(3, 224, 224))
            for name in ("vit_base_patch16_224", "resnet50")
        }


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        (["cls_token"], 768),
        (["norm"], 38_400),
        (["position"], 151_296),
        (["patch_embed"], 590_592),
        (["head"], 769_000),
        (["bias"], 84_712),
        (["bottleneck"], 608_640),
        (["lora"], 294_912),
        (["all"], 86_567_656),
        (["prompt"], 4 * 768 + 1),
    ],
    ids=lambda value: str(value),
)
def test_parameter_counts_of_vit_b16_are_those_of_the_specification(large, kinds, count):
    with torch.device("meta"):
        adapted = adapt(large["vit_base_patch16_224"], kinds)
        names = adapter_names(adapted)
        found = sum(p.numel() for n, p in adapted.named_parameters() if n in names) // 2
    assert found == count


@pytest.mark.parametrize(
    ("kind", "count", "statistics"),
    [
        ("norm", 53_120, 0),
        ("batchnorm", 53_120, 53_120),
        ("head", 2_049_000, 0),
        ("patch_embed", 9_408, 0),
        ("bias", 1_000, 0),
        ("all", 25_557_032, 53_120),
    ],
)
def test_counts_of_resnet50_are_those_of_the_cards(large, kind, count, statistics):
    net = large["resnet50"]
    with torch.device("meta"):
        adapted = adapt(net, kind)
    names = adapter_names(adapted)
    assert sum(p.numel() for n, p in adapted.named_parameters() if n in names) == 2 * count
    buffers = {n: b for n, b in adapted.named_buffers() if n in names}
    assert sum(b.numel() for b in buffers.values() if b.is_floating_point()) == 2 * statistics
    assert sum(b.numel() for b in buffers.values() if not b.is_floating_point()) == (2 * 53 if statistics else 0)
    plain_size = sum(t.numel() for t in net.state_dict().values())
    size = plain_size + count + statistics + (53 if statistics else 0)
    assert sum(t.numel() for t in adapted.state_dict().values()) == size, "something else was duplicated"


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto", "efficientnet_b0", "convit_tiny"])
def test_nets_of_timm_take_norms_per_domain(name):
    net = build(Model(name=name, img_size=64 if "swin" in name else None, patch_size=2 if "swin" in name else None),
                num_classes=10, shape=(3, 224, 224) if name == "convit_tiny" else (3, 64, 64)).eval()  # fmt: skip
    adapted = adapt(net, "norm")
    x = torch.rand(2, *((3, 224, 224) if name == "convit_tiny" else (3, 64, 64)))
    assert torch.equal(adapted(x, mix="robust"), net(x))
    apart(adapted, 0.05)
    rows = torch.tensor([[0.3, 0.7], [0.3, 0.7]])
    assert torch.allclose(adapted(x, mix=rows), adapted(x, mix=HALF), atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"model\.adapters: got cls_token; allowed kinds that WideResNet has parts for"):
        adapt(plain("wrn10_1"))
    with pytest.raises(UserError, match="all alone"):
        Adapters(kinds=["all", "norm"])
    with pytest.raises(UserError, match="norm or batchnorm"):
        Adapters(kinds=["norm", "batchnorm"])
    with pytest.raises(UserError, match="domains"):
        adapt(plain("vit_digits"), domains=("a", "a"))
    with pytest.raises(UserError, match="a net without domains"):
        adapt(adapt(plain("vit_digits")))
    both, alone = (adapter_state(adapt(plain("vit_digits"), kinds)) for kinds in (["bias", "head"], ["bias"]))
    assert both.keys() - alone.keys() == {"net.head.parametrizations.weight.original"}, "a shared bias is stacked once"
    assert Adapters(kinds="norm").kinds == ["norm"]
    assert Model(adapters="norm").adapters == Adapters(kinds=["norm"])
    assert inure.adapt is adapt


@pytest.mark.parametrize("kinds", [["all"], ["position", "lora"], ["cls_token", "norm", "head"], ["bias"]], ids=str)
@pytest.mark.parametrize("name", ["vit_digits", "swin", "wrn10_1"])
def test_weight_decay_judges_a_parameter_by_one_domain(name, kinds):
    if name == "swin":
        net = timm.create_model("swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(1, 1),
                                embed_dim=12, num_heads=(1, 1), num_classes=10)  # fmt: skip
    else:
        net = plain(name)
    if name == "wrn10_1" or (name == "swin" and "cls_token" in kinds):
        kinds = [kind for kind in kinds if kind in CNN_KINDS] or ["norm"]
    adapted = adapt(net, kinds)
    known = dict(adapted.named_parameters())
    prefix = "" if isinstance(net, Classifier) else "net."
    expected = {prefix + n: n in decayed_names(net) for n, _ in net.named_parameters()}
    stacked, found = adapter_names(adapted), decayed_names(adapted)
    judged = set()
    for key in known:
        if key.endswith((".down", ".up")):
            assert key in found, "factors are matrices"
            continue
        own = plain_name(key) if key in stacked else key.replace("parametrizations.", "").removesuffix(".original")
        assert (key in found) == expected[own], key
        judged.add(own)
    assert judged == {*expected}
    assert decayed_names(adapted, decay_all=True) == {*known}


def decayed_names(net: nn.Module, *, decay_all: bool = False) -> set[str]:
    groups = parameter_groups(net, 0.1, decay_all=decay_all)
    assert sorted(g["weight_decay"] for g in groups) in ([0.0, 0.1], [0.1])
    ids = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len([*net.parameters()])
    return {name for name, p in net.named_parameters() if id(p) in ids}


def test_weight_decay_spares_prompts_and_the_biases_of_bottlenecks():
    adapted = adapt(plain("vit_digits"), ["prompt", "bottleneck", "position"])
    found = decayed_names(adapted)
    for name, _ in adapted.named_parameters():
        if "prompt" in name or "pos_embed" in name:
            assert name not in found, name
        if "bottleneck" in name:
            assert (name in found) == name.endswith((".down", ".up")), name


def test_in_domain_is_the_net_under_a_mix_and_leaves_others_alone():
    adapted, x = apart(adapt(plain("vit_digits"))), images()
    assert torch.equal(in_domain(adapted, "robust")(x), adapted(x, mix="robust"))
    assert in_domain(adapted, None) is adapted
    with pytest.raises(UserError, match=r"mix: got elsewhere; allowed clean \| robust"):
        in_domain(adapted, "elsewhere")(x)
    net = plain("vit_digits")
    assert in_domain(net, "robust") is net


@pytest.mark.parametrize("kind", ["prompt", "bottleneck", "lora", "norm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_adapters_add_is_as_precise_as_the_net(kind, dtype):
    net, x = plain("vit_digits").to(dtype), images().to(dtype)
    adapted = adapt(net, kind)
    assert {p.dtype for p in adapted.parameters()} == {dtype}
    assert torch.equal(adapted(x, mix="robust"), net(x))
