"""Recipes as text: numbers, overrides, inheritance, round trips, and one clear line for each mistake."""

import pickle
import re
import warnings
from typing import Annotated, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from inure import config
from inure.attacks import FGSM, PGD
from inure.config import Real, Settings, Whole
from inure.errors import UserError
from inure.methods import MART, TRADES
from inure.models import build
from inure.recipe import Recipe, load_recipe, recipe_tree, shipped_names
from inure.schedules import Cosine, Ramp
from inure.threat import L2, Linf

BASE = {
    "epochs": 3,
    "method": {"kind": "pgd_at", "attack": {"kind": "pgd", "steps": 5, "threat": {"kind": "linf", "epsilon": "8/255"}}},
    "optimizer": {"kind": "adamw", "lr": 0.003},
}
SHIPPED = [name for name, _ in shipped_names()]


def recipe(*overrides: str, base=BASE) -> Recipe:
    return config.build(Recipe, config.apply_overrides(base, config.parse_overrides(overrides)))


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("1e-3", 1e-3), ("0", 0.0), (" 2 / 255 ", 2 / 255), ("1.5e-2/3", 0.005), ("1", 1.0), (".5", 0.5)],
)  # fmt: skip
def test_fractions_and_powers_of_ten_are_numbers_in_yaml_and_in_overrides(text, value):
    assert recipe(f"method.attack.step_size={text}").method.attack.step_size == value
    assert PGD(step_size=text).step_size == value
    assert config.build(PGD, yaml.safe_load(f"kind: pgd\nstep_size: {text}")).step_size == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_its_text(value):
    assert config.parse_real(repr(value)) == value
    assert config.parse_real(value) is value


@given(st.integers(-1000, 1000), st.integers(1, 1000))
def test_a_fraction_is_the_quotient(a, b):
    assert config.parse_real(f"{a}/{b}") == a / b


# Overrides


def test_overrides_replace_single_keys_and_leave_the_tree_alone():
    tree = {"method": {"attack": {"steps": 5}}}
    result = config.apply_overrides(tree, [("method.attack.steps", 7), ("seed", 3), ("a.b.c", 1)])
    assert result == {"method": {"attack": {"steps": 7}}, "seed": 3, "a": {"b": {"c": 1}}}
    assert tree == {"method": {"attack": {"steps": 5}}}


def test_values_of_overrides_are_yaml():
    pairs = config.parse_overrides(["a=8/255", "b=true", "c=[1, 2]", "d={kind: l2}", "e=", "f=null", "g=x=y", "h=007a"])
    assert [v for _, v in pairs] == ["8/255", True, [1, 2], {"kind": "l2"}, "", None, "x=y", "007a"]


def test_another_kind_of_method_keeps_the_threat_alone():
    changed = recipe("method.kind=trades").method
    assert changed == TRADES(attack=PGD(start="gaussian", threat=Linf(epsilon=8 / 255)))
    assert recipe("method.kind=mart", "method.beta=2").method.beta == 2


def test_another_kind_of_attack_keeps_the_threat_alone():
    attack = recipe("method.attack.kind=fgsm", base={**BASE, "method": {"kind": "pgd_at", "attack": {
        "kind": "pgd", "step_size": 0.5, "threat": {"kind": "l2", "epsilon": 2}}}}).method.attack  # fmt: skip
    assert attack == FGSM(threat=L2(epsilon=2))


def test_another_kind_of_threat_or_optimizer_starts_from_its_defaults():
    assert recipe("method.attack.threat.kind=l2").method.attack.threat == L2()
    assert recipe("optimizer.kind=sgd").optimizer.lr == 0.1
    assert recipe("optimizer.kind=adamw").optimizer.lr == 0.003, "the same kind resets nothing"


@pytest.mark.parametrize("reverse", [False, True])
def test_kinds_go_first_and_outer_before_inner_whatever_their_order(reverse):
    overrides = ["method.kind=trades", "method.attack.kind=fgsm", "method.attack.step_size=0.1", "method.beta=2"]
    changed = recipe(*(reversed(overrides) if reverse else overrides)).method
    assert changed == TRADES(attack=FGSM(threat=Linf(epsilon=8 / 255), step_size=0.1), beta=2)


def test_the_standard_method_has_no_attack_to_keep():
    assert recipe("method.kind=standard").method.kind == "standard"
    assert recipe("method.kind=standard", "method.kind=pgd_at").method.attack == PGD()


def test_a_mapping_without_kind_is_laid_over_the_default():
    built = config.build(Recipe, {"method": {"kind": "mart", "attack": {"steps": 3}}, "optimizer": {"lr": 0.5}})
    assert built.method == MART(attack=PGD(start="gaussian", steps=3))
    assert (built.optimizer.kind, built.optimizer.lr) == ("sgd", 0.5)
    assert recipe("evaluation.threat.epsilon=0.1").evaluation.threat == Linf(epsilon=0.1)
    other = config.build(MART, {"attack": {"threat": {"kind": "l2", "epsilon": 1}}})
    assert other.attack == PGD(start="gaussian", threat=L2(epsilon=1))


def test_joints_switch_on_and_off_by_override():
    assert recipe("perturbation.gamma=0.01").perturbation.gamma == 0.01
    assert recipe("averaging.kind=ema", "averaging.decay=0.9").averaging.decay == 0.9
    assert recipe("averaging.kind=ema", "averaging=null").averaging is None
    assert recipe("regime.epsilon.kind=ramp").regime.epsilon == Ramp()


# Mistakes


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["method.attack.steps=0"], "method.attack.steps: got 0; allowed a number >= 1"),
        (["method.attack.steps=1.5"], "method.attack.steps: got 1.5; allowed a whole number"),
        (["method.attack.steps=true"], "method.attack.steps: got True; allowed a whole number"),
        (["method.attack.steps='3'"], "method.attack.steps: got 3; allowed a whole number"),
        (["epochs=1e3"], "epochs: got 1e3; allowed a whole number"),
        (["epochs="], "epochs: got ''; allowed a whole number"),
        (["epochs=null"], "epochs: got None; allowed a whole number"),
        (["optimizer.lr=true"], "optimizer.lr: got True; allowed a number such as 8/255, 1e-3 or 0.5"),
        (["optimizer.lr=fast"], "optimizer.lr: got fast; allowed a number such as"),
        (["optimizer.lr=1/0"], "optimizer.lr: got 1/0; allowed a number such as"),
        (["optimizer.lr=.inf"], "optimizer.lr: got inf; allowed a finite number"),
        (["optimizer.lr=nan"], "optimizer.lr: got nan; allowed a finite number"),
        (["optimizer.lr=0"], "optimizer.lr: got 0; allowed a number > 0"),
        (["optimizer.betas=[0.9, 1]"], "optimizer.betas.1: got 1; allowed a number < 1"),
        (["optimizer.decay_all=maybe"], "optimizer.decay_all: got maybe; allowed a valid boolean"),
        (["method.attack.threat.epsilon=8"], "method.attack.threat.epsilon: got 8; allowed 0 to 1"),
        (["method.attack.threat.epsilon=-8/255"], "method.attack.threat.epsilon: got -8/255; allowed a number >= 0"),
        (["method.attack.threat.kind=l3"], "method.attack.threat.kind: got l3; allowed linf | l2 | l1"),
        (["method.attack.start=far"], "method.attack.start: got far; allowed zero | uniform | gaussian"),
        (["method.kind=tradez"], "method.kind: got tradez; allowed standard | pgd_at | trades | mart; try trades"),
        (["method.kind=null"], "method.kind: got None; allowed standard | pgd_at | trades | mart"),
        (["method=trades"], "method: got trades; allowed a mapping of settings"),
        (["method.attack=pgd"], "method.attack: got pgd; allowed a mapping of settings"),
        (["regime.epsilon.until=0.3"], "regime.epsilon: got no kind; allowed a mapping with a kind"),
        (["regime.epsilon.kind=cosine"], "regime.epsilon.kind: got cosine; allowed ramp | piecewise"),
        (["regime.epsilon.kind=ramp", "regime.epsilon.begin=0.9"], "regime.epsilon.until: got 0.5; allowed a fraction"),
        (
            ["schedule.kind=piecewise", "schedule.milestones=[0.9, 0.1]"],
            "schedule.milestones: got [0.9, 0.1]; allowed fractions of training in rising order",
        ),
        (["schedule.kind=piecewise", "schedule.milestones=[2]"], "schedule.milestones.0: got 2; allowed a number <= 1"),
        (["perturbation.kind=sam"], "perturbation.kind: got sam; allowed awp"),
        (["averaging.kind=ema", "averaging.decay=1"], "averaging.decay: got 1; allowed a number < 1"),
        (["balance.train.label_smoothing=1"], "balance.train.label_smoothing: got 1; allowed a number < 1"),
        (["evaluation.suite=pgd-20"], "evaluation.suite: got pgd-20; allowed clean | fgsm | pgd20 |"),
        (["engine.devices=two"], "engine.devices: got two; allowed a whole number or auto"),
        (["crafting.kind=masking"], "crafting: got {'kind': 'masking'}; allowed null: no member of this joint exists"),
        (["penalties=[1]"], "penalties: got [1]; allowed a list of at most 0"),
        (["trackers=[excel]"], "trackers.0: got excel; allowed tensorboard | wandb | mlflow"),
        (["epochs.x=3"], "epochs.x: got epochs is not a mapping; allowed a key of the recipe"),
        (["epochs.kind=3"], "epochs.kind: got epochs is not a mapping; allowed a key of the recipe"),
        (["steps"], "steps: got no '='; allowed key=value"),
        (["=3"], "=3: got no '='; allowed key=value"),
        (["seed={"], "seed: got {; allowed a YAML value"),
    ],
)
def test_a_mistake_is_one_line_at_the_key_that_the_user_wrote(overrides, line):
    with pytest.raises(UserError) as caught:
        recipe(*overrides)
    message = str(caught.value)
    assert message.startswith(line)
    assert re.fullmatch(r"[^:]+: got .+; allowed .+", message)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "line", "meant"),
    [
        ("method.betta=7", "method.betta: got an unknown field; allowed kind | attack | attack_mode", None),
        ("method.attack.step=7", "method.attack.step: got an unknown field; allowed kind | threat | steps |", "steps"),
        ("method.attack.threat.eps=1", "method.attack.threat.eps: got an unknown field; allowed kind | epsilon", "epsilon"),
        ("metod.kind=mart", "metod: got an unknown field; allowed about | seed | epochs |", "method"),
        ("optimiser.lr=1", "optimiser: got an unknown field; allowed about |", "optimizer"),
        ("balance.trian.label_smoothing=0", "balance.trian: got an unknown field; allowed attack | train", "train"),
        ("kind=mart", "kind: got an unknown field; allowed about |", None),
        ("self=3", "self: got an unknown field; allowed about |", None),
        ("model.nmae=x", "model.nmae: got an unknown field; allowed name | pretrained |", "name"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_refused_with_the_nearest_that_exists(override, line, meant):
    with pytest.raises(UserError) as caught:
        recipe(override)
    message = str(caught.value)
    assert message.startswith(line)
    if meant:
        assert re.search(rf"did you mean {meant}( or \w+)*\?$", message)


def test_an_unknown_field_of_one_kind_may_belong_to_another():
    assert recipe("method.kind=trades", "method.beta=7").method.beta == 7
    with pytest.raises(UserError, match=r"method\.beta: got an unknown field"):
        recipe("method.beta=7")


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["method.kind=standard", "regime.epsilon.kind=ramp"], "regime"),
        (["method.attack.kind=fgsm", "regime.steps.kind=ramp"], "regime.steps"),
        (["method.kind=standard", "checkpoint.metric=robust", "evaluation.threat.epsilon=0"], "checkpoint.metric"),
    ],
)
def test_combinations_that_cannot_work_are_refused_by_name(overrides, setting):
    with pytest.raises(UserError) as caught:
        recipe(*overrides)
    assert caught.value.setting == setting


def test_mistakes_in_python_are_the_same_lines():
    with pytest.raises(UserError, match="^steps: got 0; allowed a number >= 1$"):
        PGD(steps=0)
    with pytest.raises(UserError, match=r"^threat\.epsilon: got -1; allowed a number >= 0"):
        PGD(threat={"kind": "l2", "epsilon": -1})
    with pytest.raises(ValueError, match="unknown field"):
        PGD(eps=1)


def test_a_mistake_survives_pickling_between_processes():
    mistake = UserError("a.b", 3, "1 | 2", "a.b=1")
    again = pickle.loads(pickle.dumps(mistake))
    assert (str(again), type(again)) == ("a.b: got 3; allowed 1 | 2; try a.b=1", UserError)


def test_messages_stay_on_one_line_and_shorten_what_was_given():
    message = str(UserError("key", "x\ny" * 200, "a | b"))
    assert "\n" not in message
    assert len(message) < 200


class Fruit(Settings):
    kind: Literal["fruit"] = "fruit"
    weight: Annotated[Real, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _light(self):
        if self.weight > 9:
            raise UserError("weight", self.weight, "at most 9")
        return self


class Stone(Settings):
    kind: Literal["stone"] = "stone"
    name: Whole = 0


class Bag(Settings):
    items: list[Annotated[Fruit | Stone, Field(discriminator="kind")]] = []
    by_name: dict[str, Fruit] = {}


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"items": [{"kind": "fruit"}, {"kind": "fruit", "weight": 0}]}, "items.1.weight: got 0; allowed a number > 0"),
        ({"items": [{"kind": "stone", "weight": 1}]}, "items.0.weight: got an unknown field; allowed kind | name"),
        ({"items": [{"kind": "fruit", "weight": 10}]}, "items.0.weight: got 10.0; allowed at most 9"),
        ({"items": [{"kind": "bread"}]}, "items.0.kind: got bread; allowed fruit | stone"),
        ({"items": [{}]}, "items.0: got no kind; allowed a mapping with a kind"),
        ({"by_name": {"apple": {"weight": -1}}}, "by_name.apple.weight: got -1; allowed a number > 0"),
        ({"by_name": {"apple": {"kind": "stone"}}}, "by_name.apple.kind: got stone; allowed fruit"),
    ],
)
def test_mistakes_inside_lists_and_mappings_have_their_place(tree, line):
    with pytest.raises(UserError) as caught:
        config.build(Bag, tree)
    assert str(caught.value) == line


# Files


def test_extends_lays_the_file_over_its_bases_in_order(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 1\nbatch_size: 16\nmethod: {kind: pgd_at, attack: {steps: 3}}")
    (tmp_path / "b.yaml").write_text("epochs: 2\nmethod: {attack: {step_size: 2/255}}")
    (tmp_path / "c.yaml").write_text("extends: [a.yaml, b.yaml]\nseed: 5\noptimizer: {lr: 1e-2}")
    (tmp_path / "d.yaml").write_text("extends: c.yaml\nmethod: {kind: trades, beta: 1}")
    built = load_recipe(str(tmp_path / "c.yaml"))
    assert (built.epochs, built.batch_size, built.seed, built.optimizer.lr) == (2, 16, 5, 0.01)
    assert built.method.attack == PGD(steps=3, step_size=2 / 255)
    assert load_recipe(str(tmp_path / "d.yaml")).method == TRADES(beta=1)


def test_a_file_may_extend_a_shipped_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: digits/pgd_at\nepochs: 2")
    mine, shipped = load_recipe(str(tmp_path / "mine.yaml")), load_recipe("digits/pgd_at")
    assert mine == shipped.model_copy(update={"epochs": 2})


def test_merge_goes_deep_within_a_kind_and_replaces_across_kinds():
    base = {"a": {"kind": "x", "b": 1, "c": {"d": 2}}, "e": [1, 2], "g": {"kind": "x", "h": 1}}
    update = {"a": {"c": {"f": 3}}, "e": [3], "g": {"kind": "y"}}
    merged = {"a": {"kind": "x", "b": 1, "c": {"d": 2, "f": 3}}, "e": [3], "g": {"kind": "y"}}
    assert config.merge(base, update) == merged
    assert base["a"] == {"kind": "x", "b": 1, "c": {"d": 2}}
    assert config.merge(merged, {}) == merged
    assert config.merge({}, merged) == merged


def test_differences_are_named_by_dotted_keys():
    a, b = recipe(), recipe("method.attack.steps=6", "seed=1", "averaging.kind=ema")
    assert config.differences(config.dump(a), config.dump(b)) == ["averaging", "method.attack.steps", "seed"]
    assert config.differences(config.dump(a), config.dump(a)) == []


@pytest.mark.parametrize(
    ("content", "allowed"),
    [("a: [", "YAML"), ("- 1", "a mapping"), ("", "a mapping"), (b"\xff\xfe\x00", "YAML"), (None, "YAML file that")],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, content, allowed):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)
    assert allowed in caught.value.allowed
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="RECIPE: got digits/pgdat; allowed .*try .*digits/pgd_at"):
        load_recipe("digits/pgdat")


# Round trips

fractions = st.floats(0, 1)
positive = st.floats(1e-9, 1e9)
threats = st.one_of(
    st.builds(dict, kind=st.just("linf"), epsilon=fractions),
    st.builds(dict, kind=st.just("l2"), epsilon=st.floats(0, 1e6)),
    st.builds(dict, kind=st.just("l1"), epsilon=st.floats(0, 1e6), sparsity=st.floats(1e-6, 1)),
)
attacks = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("pgd")},
        optional={
            "threat": threats,
            "steps": st.integers(1, 10**6),
            "step_size": st.one_of(st.none(), st.floats(0, 10), st.just("2/255")),
            "start": st.sampled_from(["zero", "uniform", "gaussian"]),
            "restarts": st.integers(1, 50),
            "keep": st.sampled_from(["last", "worst"]),
        },
    ),
    st.fixed_dictionaries({"kind": st.just("fgsm")}, optional={"threat": threats, "step_size": st.floats(0, 1)}),
)
recipes = st.fixed_dictionaries(
    {},
    optional={
        "about": st.text(max_size=30),
        "seed": st.integers(),
        "epochs": st.integers(1, 10**9),
        "method": st.one_of(
            st.fixed_dictionaries({"kind": st.sampled_from(["trades", "mart"])}, optional={"attack": attacks, "beta": positive}),
            st.fixed_dictionaries({"kind": st.just("pgd_at")}, optional={"attack": attacks}),
        ),
        "schedule": st.one_of(
            st.builds(dict, kind=st.just("cosine"), warmup=fractions, final=fractions),
            st.builds(dict, kind=st.just("piecewise"), milestones=st.lists(fractions).map(sorted), factor=positive),
        ),
        "optimizer": st.one_of(
            st.builds(dict, kind=st.just("sgd"), lr=positive, nesterov=st.booleans()),
            st.builds(dict, kind=st.just("adamw"), lr=positive, betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999))),
        ),
        "regime": st.fixed_dictionaries({}, optional={"epsilon": st.just({"kind": "ramp", "until": "1/3"})}),
        "averaging": st.one_of(st.none(), st.builds(dict, kind=st.just("ema"), decay=st.floats(0, 0.9999), warmup=st.booleans())),
        "perturbation": st.one_of(st.none(), st.builds(dict, gamma=fractions)),
        "balance": st.fixed_dictionaries({}, optional={"train": st.builds(dict, label_smoothing=st.floats(0, 0.99))}),
        "model": st.builds(dict, name=st.sampled_from(["vit_digits", "cnn_tiny", "FILE.py:f"])),
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(recipes)
def test_a_recipe_survives_yaml_exactly(tree):
    built = config.build(Recipe, tree)
    text = config.to_yaml(config.dump(built))
    assert config.build(Recipe, yaml.safe_load(text)) == built
    assert config.to_yaml(config.dump(config.build(Recipe, yaml.safe_load(text)))) == text


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="abkindmethodattck._=", max_size=25),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers()), st.just({})),
)  # fmt: skip
def test_no_override_ends_in_anything_but_a_recipe_or_a_user_error(key, value):
    for override in (f"{key}={value}", f"method.{key}={value}", f"method.attack.{key}={value}"):
        try:
            recipe(override)
        except UserError as error:
            assert "\n" not in str(error)


# What is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_says_what_it_is_and_survives_yaml(name):
    built = load_recipe(name)
    assert len(built.about) > 20
    assert config.build(Recipe, yaml.safe_load(config.to_yaml(config.dump(built)))) == built
    assert built.method.kind == name.split("/")[1].replace("_resnet18", "").replace("_wrn28_10", "").replace(
        "_deit_tiny", ""
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_the_net_of_every_shipped_recipe_builds(name):
    built = load_recipe(name)
    side = {"digits": 8, "cifar10": 32, "imagenette64": 64}[name.split("/")[0]]
    shape = (1 if side == 8 else 3, side, side)
    with torch.device("meta"):
        net = build(built.model, num_classes=10, shape=shape)
        assert net(torch.empty(2, *shape)).shape == (2, 10)
        built.optimizer.build(net)


def test_the_shipped_recipes_are_those_of_the_plan():
    methods = ("standard", "pgd_at", "trades", "mart")
    cifar = {f"cifar10/{m}_{net}" for m in methods for net in ("resnet18", "wrn28_10", "deit_tiny")}
    assert {*SHIPPED} >= {f"digits/{m}" for m in methods} | cifar | {"imagenette64/pgd_at_deit_tiny"}


def factors(schedule, *epochs: float, of: int) -> list[float]:
    return [round(schedule.at(epoch / of), 6) for epoch in epochs]


@pytest.mark.parametrize("net", ["resnet18", "wrn28_10"])
def test_cifar_cnns_have_the_numbers_of_rice_et_al(net):
    built = load_recipe(f"cifar10/pgd_at_{net}")
    assert (built.epochs, built.batch_size) == (200, 128)
    sgd = built.optimizer
    assert (sgd.kind, sgd.lr, sgd.momentum, sgd.weight_decay, sgd.decay_all) == ("sgd", 0.1, 0.9, 5e-4, True)
    assert factors(built.schedule, 0, 99, 100, 149, 150, 199, of=200) == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert (built.augment.crop_padding, built.augment.crop_mode, built.augment.flip) == (4, "reflect", True)
    assert built.method.attack == PGD(threat=Linf(epsilon=8 / 255), steps=10, step_size=2 / 255, start="uniform")
    assert built.method.attack_mode == "train"
    assert built.data.validation == 1000


def test_cifar_vits_have_the_numbers_of_mo_et_al():
    built = load_recipe("cifar10/pgd_at_deit_tiny")
    assert (built.epochs, built.batch_size, built.model.patch_size, built.model.img_size) == (40, 64, 4, 32)
    sgd = built.optimizer
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, sgd.decay_all, sgd.clip_norm) == (0.1, 0.9, 1e-4, True, 1.0)
    assert factors(built.schedule, 0, 34, 35, 37, 38, of=40) == [1, 1, 0.1, 0.1, 0.01]
    assert (built.augment.mixup, built.augment.cutmix, built.augment.mix_probability) == (0.8, 1.0, 0.3)
    assert load_recipe("cifar10/trades_deit_tiny").augment.mixes is False
    assert (built.method.attack_mode, built.evaluation.threat) == ("eval", Linf(epsilon=8 / 255))


def test_trades_and_mart_have_the_numbers_of_their_papers():
    trades, mart = load_recipe("cifar10/trades_resnet18").method, load_recipe("cifar10/mart_resnet18").method
    assert (trades.beta, mart.beta, load_recipe("cifar10/mart_wrn28_10").method.beta) == (6, 5, 6)
    for method in (trades, mart):
        assert (method.attack.start, method.attack.start_std, method.attack_mode) == ("gaussian", 1e-3, "eval")


def test_the_digits_recipes_have_the_settings_of_the_trial():
    built = load_recipe("digits/pgd_at")
    assert (built.epochs, built.batch_size, built.model.name) == (40, 64, "vit_digits")
    adamw = built.optimizer
    assert (adamw.kind, adamw.lr, adamw.weight_decay, adamw.clip_norm, adamw.decay_all) == ("adamw", 3e-3, 0.05, 1, False)
    assert built.schedule == Cosine(warmup=3 / 40)
    assert built.method.attack == PGD(steps=5, threat=Linf(epsilon=0.2))
    assert built.regime.epsilon == Ramp(until=0.5)
    assert "regime" not in recipe_tree("digits/standard")


# The house rule on warnings


def test_warnings_raised_from_inure_are_errors_and_those_of_others_are_not():
    with pytest.raises(UserWarning, match="ours"):
        warnings.warn_explicit("ours", UserWarning, "threat.py", 1, module="inure.threat")
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("theirs", UserWarning, "other.py", 1, module="other.inure")
    assert [str(w.message) for w in caught] == ["theirs"]
