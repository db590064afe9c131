"""Recipes as text: numbers, overrides, inheritance, round trips, and one clear line for each mistake."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from inure.attacks import FGSM, PGD
from inure.methods import MART, TRADES
from inure.recipe.recipe import Recipe, load_recipe
from inure.schedules import Ramp
from inure.settings import config, trees
from inure.settings.errors import UserError
from inure.threat import L2, Linf

BASE = {
    "epochs": 3,
    "method": {"kind": "pgd_at", "attack": {"kind": "pgd", "steps": 5, "threat": {"kind": "linf", "epsilon": "8/255"}}},
    "optimizer": {"kind": "adamw", "lr": 0.003},
}


def recipe(*overrides: str, base=BASE) -> Recipe:
    return config.build(Recipe, trees.apply_overrides(base, trees.parse_overrides(overrides)))


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("1e-3", 1e-3), ("0", 0.0), (" 2 / 255 ", 2 / 255), ("1.5e-2/3", 0.005), (".5", 0.5)],
)
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
    result = trees.apply_overrides(tree, [("method.attack.steps", 7), ("seed", 3), ("a.b.c", 1)])
    assert result == {"method": {"attack": {"steps": 7}}, "seed": 3, "a": {"b": {"c": 1}}}
    assert tree == {"method": {"attack": {"steps": 5}}}


def test_values_of_overrides_are_yaml():
    pairs = trees.parse_overrides(["a=8/255", "b=true", "c=[1, 2]", "d={kind: l2}", "e=", "f=null", "g=x=y", "h=007a"])
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
    overrides = ["method.kind=trades", "method.attack.kind=fgsm", "method.attack.start=uniform", "method.beta=2"]
    changed = recipe(*(reversed(overrides) if reverse else overrides)).method
    assert changed == TRADES(attack=FGSM(threat=Linf(epsilon=8 / 255), start="uniform"), beta=2)


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


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}.yaml")
    with pytest.raises(UserError, match="^extends: got a -> b -> a; allowed recipes that do not extend themselves"):
        load_recipe(str(tmp_path / "a.yaml"))


def test_a_file_may_extend_a_shipped_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: digits/pgd_at\nepochs: 2")
    mine, shipped = load_recipe(str(tmp_path / "mine.yaml")), load_recipe("digits/pgd_at")
    assert mine == shipped.model_copy(update={"epochs": 2})


def test_merge_goes_deep_within_a_kind_and_replaces_across_kinds():
    base = {"a": {"kind": "x", "b": 1, "c": {"d": 2}}, "e": [1, 2], "g": {"kind": "x", "h": 1}}
    update = {"a": {"c": {"f": 3}}, "e": [3], "g": {"kind": "y"}}
    merged = {"a": {"kind": "x", "b": 1, "c": {"d": 2, "f": 3}}, "e": [3], "g": {"kind": "y"}}
    assert trees.merge(base, update) == merged
    assert base["a"] == {"kind": "x", "b": 1, "c": {"d": 2}}
    assert trees.merge(merged, {}) == merged
    assert trees.merge({}, merged) == merged


def test_differences_are_named_by_dotted_keys():
    a, b = recipe(), recipe("method.attack.steps=6", "seed=1", "averaging.kind=ema")
    assert trees.differences(config.dump(a), config.dump(b)) == ["averaging", "method.attack.steps", "seed"]
    assert trees.differences(config.dump(a), config.dump(a)) == []


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

fractions, positive = st.floats(0, 1), st.floats(1e-9, 1e9)


def some(**fields):
    """Any subset of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def kind_of(*kinds: str, **fields):
    """One of the kinds, and any subset of the fields."""
    return st.fixed_dictionaries({"kind": st.sampled_from(kinds)}, optional=fields)


threats = st.one_of(
    kind_of("linf", epsilon=fractions),
    kind_of("l2", epsilon=st.floats(0, 1e6)),
    kind_of("l1", epsilon=st.floats(0, 1e6), sparsity=st.floats(1e-6, 1)),
)
attacks = st.one_of(
    kind_of("fgsm", threat=threats, step_size=fractions, start=st.sampled_from(["zero", "uniform"])),
    kind_of(
        "pgd",
        threat=threats,
        steps=st.integers(1, 10**6),
        step_size=st.one_of(st.none(), st.floats(0, 10), st.just("2/255")),
        start=st.sampled_from(["zero", "uniform", "gaussian"]),
        restarts=st.integers(1, 50),
        keep=st.sampled_from(["last", "worst"]),
    ),
)
methods = st.one_of(kind_of("trades", "mart", attack=attacks, beta=positive), kind_of("pgd_at", attack=attacks))
others = some(
    about=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),  # by default all of UTF-8 is listed first
    seed=st.integers(0),
    epochs=st.integers(1, 10**9),
    schedule=st.one_of(
        kind_of("cosine", warmup=fractions, final=fractions),
        kind_of("piecewise", milestones=st.lists(fractions).map(sorted), factor=positive),
    ),
    optimizer=st.one_of(
        kind_of("sgd", lr=positive, nesterov=st.booleans()),
        kind_of("adamw", lr=positive, betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))),
    ),
    regime=some(epsilon=st.just({"kind": "ramp", "until": "1/3"})),
    averaging=st.one_of(st.none(), kind_of("ema", decay=st.floats(0, 0.9999), warmup=st.booleans())),
    perturbation=st.one_of(st.none(), some(gamma=fractions)),
    balance=some(train=some(label_smoothing=st.floats(0, 0.99))),
    model=some(name=st.sampled_from(["vit_digits", "cnn_tiny", "FILE.py:f"])),
)


@settings(max_examples=150, deadline=None)
@given(methods, others)
def test_a_recipe_survives_yaml_exactly(method, tree):
    if method["kind"] == "mart":  # its loss takes no criterion
        tree = {key: value for key, value in tree.items() if key != "balance"}
    if method["kind"] == "trades" and "attack" in method:  # not from the image itself
        method = {**method, "attack": {**method["attack"], "start": "uniform"}}
    built = config.build(Recipe, {"method": method, **tree})
    text = trees.to_yaml(config.dump(built))
    read = config.build(Recipe, yaml.safe_load(text))
    assert read == built
    assert trees.to_yaml(config.dump(read)) == text


@pytest.mark.parametrize("text", ["two\x85lines", "a\u2028b", "\u2029", "Größe \u2192 ε", "a\nb", "\t"])
def test_text_of_any_kind_survives_yaml(text):
    assert yaml.safe_load(trees.to_yaml({"about": text})) == {"about": text}
