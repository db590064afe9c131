"""Families of recipes: names, what their members hold, and the recipe of Mo et al. in all its members."""

import itertools

import pytest
import yaml

from inure.crafting import AttentionDropping, PerturbationMasking
from inure.recipe.recipe import load_recipe
from inure.recipe.shipped import recipe_tree, shipped_names
from inure.settings.errors import UserError
from inure.settings.families import members_of

NETS = (
    "vit_s",
    "vit_b",
    "deit_tiny",
    "deit_small",
    "deit_base",
    "convit_tiny",
    "convit_small",
    "convit_base",
    "swin_tiny",
    "swin_small",
    "swin_base",
)
PLACES = {"cifar10": 32, "imagenette64": 64, "imagenette": 224}
MEMBERS = [
    f"mo_{method}{tricks}_{net}"
    for method, tricks, net in itertools.product(("pgd_at", "trades", "mart"), ("", "_ard_prm"), NETS)
]


@pytest.fixture
def write(tmp_path):
    """``write(name, tree)``: a YAML file."""

    def write(name, tree):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return write


FAMILY = {
    "name": "a_{net}{more}",
    "about": "{net} {more}.",
    "extends": "digits/standard",
    "epochs": 3,
    "axes": {
        "net": {"x": {"about": "X", "model": {"name": "cnn_tiny"}}, "y": {"extends": "digits/pgd_at", "epochs": 5}},
        "more": {"": {"about": "plainly"}, "_more": {"epochs": 7, "model": {"drop_path": 0.1}}},
    },
}


def test_every_combination_is_a_member_and_later_axes_win(write):
    members = members_of(write("a.family", FAMILY))
    assert [*members] == ["a_x", "a_x_more", "a_y", "a_y_more"]
    assert members["a_x"] == {
        "about": "X plainly.", "extends": ["digits/standard"], "epochs": 3, "model": {"name": "cnn_tiny"},
    }  # fmt: skip
    assert members["a_y"]["extends"] == ["digits/standard", "digits/pgd_at"]
    assert [tree["epochs"] for tree in members.values()] == [3, 7, 5, 7]
    assert members["a_x_more"]["model"] == {"name": "cnn_tiny", "drop_path": 0.1}
    assert members["a_y_more"]["about"] == "y _more."


def test_a_family_like_another_changes_and_leaves_out_levels(write):
    write("a.family", FAMILY)
    other = {"like": "a.family.yaml", "name": "b_{net}{more}", "axes": {"net": {"x": {"epochs": 4}, "y": None}}}
    members = members_of(write("b.family", other))
    assert [*members] == ["b_x", "b_x_more"]
    assert members["b_x"]["epochs"] == 4
    assert members["b_x"]["model"] == {"name": "cnn_tiny"}


def test_members_are_listed_and_loaded_as_recipes_are():
    names = [name for name, _ in shipped_names()]
    assert len({*names}) == len(names)
    for place in PLACES:
        assert {f"{place}/{member}" for member in MEMBERS} <= {*names}
    assert not any("family" in name for name in names)
    with pytest.raises(UserError, match="cifar10/mo_trades_deit_tini; .*try cifar10/mo_trades_deit_tiny"):
        recipe_tree("cifar10/mo_trades_deit_tini")


@pytest.mark.parametrize("place", PLACES)
def test_every_member_has_the_recipe_of_mo_et_al(place):
    for member in MEMBERS:
        built = load_recipe(f"{place}/{member}")
        assert (built.epochs, built.batch_size, built.checkpoint.select) == (40, 64, "last")
        swin = "swin" in member
        sgd = built.optimizer
        assert (sgd.kind, sgd.lr, sgd.momentum, sgd.weight_decay) == ("sgd", 0.1, 0.5 if swin else 0.9, 1e-4)
        assert (sgd.clip_norm, sgd.decay_all, built.model.drop_path) == (1.0, True, 0.1 if swin else 0)
        rates = [round(built.schedule.at(epoch / 40), 6) for epoch in (0, 34.99, 35, 37.99, 38, 40)]
        assert rates == [1, 1, 0.1, 0.1, 0.01, 0.01]
        attack = built.method.attack
        assert (attack.threat.epsilon, attack.steps, attack.step_size) == (8 / 255, 10, 2 / 255)
        at = built.method.kind == "pgd_at"
        assert member.startswith(f"mo_{built.method.kind}")
        assert (attack.start, built.augment.mixes) == (("uniform", True) if at else ("gaussian", False))
        if at:
            assert (built.augment.mixup, built.augment.cutmix, built.augment.mix_probability) == (0.8, 1.0, 0.3)
        else:
            assert built.method.beta == 6
        assert built.model.img_size == PLACES[place]
        if "ard_prm" in member:
            crafting = built.crafting
            assert crafting.attention_dropping == AttentionDropping(warmup=10 / 40)
            patch = {32: 4, 64: 8, 224: 16}[PLACES[place]]
            assert crafting.perturbation_masking == PerturbationMasking(warmup=10 / 40, patch=patch)
        else:
            assert built.crafting is None


def test_imagenet_has_ten_epochs_of_five_steps_and_pgd_at_alone():
    names = [name for name, _ in shipped_names() if name.startswith("imagenet/mo_")]
    assert {"imagenet/mo_pgd_at_ard_prm_vit_b", "imagenet/mo_pgd_at_swin_base"} <= {*names}
    for name in names:
        built = load_recipe(name)
        attack = built.method.attack
        assert (built.epochs, built.batch_size, built.method.kind) == (10, 512, "pgd_at")
        assert (attack.threat.epsilon, attack.steps, attack.step_size) == (4 / 255, 5, 1 / 255)
        assert [round(built.schedule.at(epoch / 10), 6) for epoch in (4.99, 5, 8)] == [1, 0.1, 0.01]
        if built.crafting is not None:
            assert built.crafting.attention_dropping.warmup == 0.2
            assert built.crafting.perturbation_masking.patch == 16


def test_the_successors_have_what_is_known_of_their_recipes():
    singh = load_recipe("imagenet/singh_vit_s")
    assert (singh.model.stem, singh.model.pretrained, singh.method.attack.kind) == ("conv", True, "apgd")
    assert (singh.method.attack.steps, singh.averaging.kind) == (2, "ema")
    assert (singh.optimizer.lr, singh.optimizer.weight_decay) == (1e-3, 0.05)
    assert (singh.balance.train.label_smoothing, singh.schedule.at(20 / 300)) == (0.1, 1)
    light = load_recipe("imagenet/debenedetti_xcit_s12")
    assert (light.optimizer.weight_decay, light.method.attack.kind, light.augment.mixes) == (0.5, "fgsm", False)
    assert light.optimizer.lr == pytest.approx(5e-4 * light.batch_size / 512)
    assert light.regime.epsilon.at(0.05) == pytest.approx(0.5)
    for name in ("cifar10/singh_deit_tiny", "cifar10/debenedetti_deit_tiny"):
        assert load_recipe(name).evaluation.threat.epsilon == 8 / 255
