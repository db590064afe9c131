"""Which parameters decay, and that decay and settings reach torch's optimizers."""

import pytest
import torch
from torch import nn

from inure.models import Model, build
from inure.optimizers import DEAT, SGD, AdamW, DiffusionEnhanced, parameter_groups


def on_meta(name: str, **settings) -> nn.Module:
    with torch.device("meta"):
        return build(Model(name=name, **settings), num_classes=10, shape=(3, 32, 32))


def decays(model: nn.Module, *, decay_all: bool = False) -> tuple[set[str], set[str]]:
    """Names of the parameters that decay, and of those that do not."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, 0.1, decay_all=decay_all)
    held = [(names[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert len(held) == len(names)
    assert {decay for _, decay in held} <= {0.1, 0.0}
    return {n for n, decay in held if decay}, {n for n, decay in held if not decay}


def test_a_timm_vit_decays_matrices_but_no_bias_norm_token_or_position_embedding():
    model = on_meta("deit_tiny_patch16_224", img_size=32, patch_size=4)
    decayed, free = decays(model)
    assert {"net.cls_token", "net.pos_embed", "net.norm.weight", "net.norm.bias", "net.head.bias"} <= free
    assert {"net.patch_embed.proj.bias", "net.blocks.3.norm1.weight", "net.blocks.3.attn.qkv.bias"} <= free
    # Per block: qkv, proj and two matrices of the MLP
    blocks = {f"net.blocks.{i}.{m}.weight" for i in range(12) for m in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert decayed == blocks | {"net.patch_embed.proj.weight", "net.head.weight"}


def test_register_and_distillation_tokens_do_not_decay():
    assert "net.dist_token" in decays(on_meta("deit_tiny_distilled_patch16_224", img_size=32, patch_size=4))[1]
    assert "net.reg_token" in decays(on_meta("vit_little_patch16_reg4_gap_256", img_size=32, patch_size=4))[1]


def test_a_resnet_decays_convolutions_and_the_head_but_no_norm_or_bias():
    model = on_meta("preact_resnet18")
    decayed, free = decays(model)
    matrices = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert decayed == matrices
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name.rsplit(".", 1)[0] for name in free if name.endswith("weight")} == norms
    assert len(decayed) > 15
    assert len(norms) > 10


@pytest.mark.parametrize("name", ["preact_resnet18", "vit_digits"])
def test_decay_all_decays_everything_in_one_group(name):
    model = on_meta(name)
    decayed, free = decays(model, decay_all=True)
    assert free == set()
    assert decayed == {n for n, _ in model.named_parameters()}
    assert len(parameter_groups(model, 0.1, decay_all=True)) == 1


@pytest.mark.parametrize(
    "optimizer",
    [SGD(lr=0.1, weight_decay=0.5), AdamW(lr=0.1, weight_decay=0.5), DiffusionEnhanced(lr=0.1, weight_decay=0.5)],
)
def test_one_step_without_gradient_shrinks_matrices_by_lr_times_decay_and_leaves_vectors(optimizer):
    net = nn.Linear(3, 2)
    weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.build(net).step()
    assert torch.allclose(net.weight, weight * (1 - 0.1 * 0.5))
    assert torch.equal(net.bias, bias)


def test_settings_reach_torch():
    net = nn.Linear(3, 2)
    sgd = SGD(lr=0.2, momentum=0.8, nesterov=True, weight_decay=0).build(net)
    assert isinstance(sgd, torch.optim.SGD)
    assert all((g["lr"], g["momentum"], g["nesterov"]) == (0.2, 0.8, True) for g in sgd.param_groups)
    adamw = AdamW(lr=1e-3, betas=(0.8, 0.95)).build(net)
    assert isinstance(adamw, torch.optim.AdamW)
    assert all((g["lr"], tuple(g["betas"])) == (1e-3, (0.8, 0.95)) for g in adamw.param_groups)
    assert sorted(g["weight_decay"] for g in adamw.param_groups) == [0.0, 0.05]
    deat = DiffusionEnhanced(lr=0.3, k1=0.5, k2=0.7, decoupled=False, match_lr=True).build(net)
    assert isinstance(deat, DEAT)
    settings = [(g["lr"], g["k1"], g["k2"], g["decoupled"], g["match_lr"]) for g in deat.param_groups]
    assert settings == [(0.3, 0.5, 0.7, False, True)] * 2
    assert sorted(g["weight_decay"] for g in deat.param_groups) == [0.0, 5e-4]


@pytest.mark.parametrize(
    "settings",
    [
        SGD(momentum=0), SGD(momentum=0.9), SGD(momentum=0.5, nesterov=True), DiffusionEnhanced(),
        DiffusionEnhanced(k1=0), DiffusionEnhanced(k1=2, k2=0.5), DiffusionEnhanced(match_lr=True),
    ],
    ids=repr,
)  # fmt: skip
def test_the_long_run_step_is_where_steps_under_a_constant_gradient_end(settings):
    net = nn.Linear(1, 1).double()
    optimizer = settings.model_copy(update={"lr": 0.2, "weight_decay": 0.0}).build(net)
    for _ in range(300):
        before = net.weight.item()
        net.weight.grad = torch.full_like(net.weight, 3.0)
        optimizer.step()
    assert before - net.weight.item() == pytest.approx(0.2 * 3 * settings.long_run_step)


def test_adamw_has_no_long_run_step():
    assert AdamW().long_run_step is None
