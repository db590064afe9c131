"""Every mistake in a recipe is one line at the key that the user wrote, with what is allowed there."""

import pickle
import re
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from inure.attacks import PGD
from inure.recipe.recipe import Recipe
from inure.settings import config, trees
from inure.settings.config import Real, Settings, Whole
from inure.settings.errors import UserError

BASE = {
    "epochs": 3,
    "method": {"kind": "pgd_at", "attack": {"kind": "pgd", "steps": 5}},
    "optimizer": {"kind": "adamw"},
}


def recipe(*overrides: str) -> Recipe:
    return config.build(Recipe, trees.apply_overrides(BASE, trees.parse_overrides(overrides)))


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
        (["optimizer.betas=[0.9, 1]"], "optimizer.betas[1]: got 1; allowed a number < 1"),
        (["optimizer.decay_all=maybe"], "optimizer.decay_all: got maybe; allowed a valid boolean"),
        (["method.attack.threat.epsilon=8"], "method.attack.threat.epsilon: got 8; allowed 0 to 1"),
        (["method.attack.threat.epsilon=-8/255"], "method.attack.threat.epsilon: got -8/255; allowed a number >= 0"),
        (["method.attack.threat.kind=l3"], "method.attack.threat.kind: got l3; allowed linf | l2 | l1"),
        (["method.attack.start=far"], "method.attack.start: got far; allowed zero | uniform | gaussian"),
        (
            ["method.kind=tradez"],
            "method.kind: got tradez; allowed standard | pgd_at | trades | mart | pgd_kl | co_training | fast_adv_prop "
            "| free | fgsm_pgi; try trades",
        ),
        (["model.adapters=cls_token"], "model.adapters: got cls_token; allowed null: method pgd_at trains a single"),
        (
            ["method.kind=co_training", "model.adapters.domains=[clean,linf]"],
            "model.adapters.domains: got ['clean', 'linf']; allowed those of the method: clean | robust",
        ),
        (["method.kind=null"], "method.kind: got None; allowed standard | pgd_at | trades | mart"),
        (["method=trades"], "method: got trades; allowed a mapping of settings"),
        (["method.attack=pgd"], "method.attack: got pgd; allowed a mapping of settings; try method.attack.kind=pgd"),
        (
            ["regime.phases=[{until: 0.5, attack: fgsm}]"],
            "regime.phases[0].attack: got fgsm; allowed a mapping of settings; try attack: {kind: fgsm}",
        ),
        (["regime.epsilon.until=0.3"], "regime.epsilon: got no kind; allowed a mapping with a kind: ramp | piecewise"),
        (["regime.epsilon.kind=cosine"], "regime.epsilon.kind: got cosine; allowed ramp | piecewise"),
        (["regime.epsilon.kind=ramp", "regime.epsilon.begin=0.9"], "regime.epsilon.until: got 0.5; allowed a fraction"),
        (
            ["schedule.kind=piecewise", "schedule.milestones=[0.9, 0.1]"],
            "schedule.milestones: got [0.9, 0.1]; allowed fractions of training in rising order",
        ),
        (
            ["schedule.kind=piecewise", "schedule.milestones=[2]"],
            "schedule.milestones[0]: got 2; allowed a number <=",
        ),
        (["perturbation.kind=sam"], "perturbation.kind: got sam; allowed awp"),
        (["averaging.kind=ema", "averaging.decay=1"], "averaging.decay: got 1; allowed a number < 1"),
        (["balance.train.label_smoothing=1"], "balance.train.label_smoothing: got 1; allowed a number < 1"),
        (["evaluation.suite=pgd-20"], "evaluation.suite: got pgd-20; allowed clean | fgsm | pgd20 |"),
        (["engine.devices=two"], "engine.devices: got two; allowed a whole number or auto"),
        (["penalties=[1]"], "penalties[0]: got 1; allowed a mapping of settings"),
        (["trackers=[excel]"], "trackers[0]: got excel; allowed tensorboard | wandb | mlflow"),
        (
            ["penalties=tail"],
            "penalties: got tail; allowed a list; try penalties=[{kind: tail}]",
        ),
        (["penalties={kind: tail}"], "penalties: got {'kind': 'tail'}; allowed a list; try penalties=[{kind: tail}]"),
        (["penalties=[tial]"], "penalties[0]: got tial; allowed a mapping of settings; try penalties=[{kind: tail}]"),
        (["penalties=[{kind: tail, weight: -1}]"], "penalties[0].weight: got -1; allowed a number >= 0"),
        (
            ["guards.catastrophic=stopp"],
            "guards.catastrophic: got stopp; allowed warn | stop | rollback | switch; did you mean stop?",
        ),
        (
            ["method.attack.kind=n_fgsm", "method.attack.threat.kind=l2"],
            "method.attack.threat.kind: got l2; allowed linf; try method.attack.kind=pgd or fgsm",
        ),
        (
            ["method.kind=free", "method.attack.kind=pgd"],
            "method.attack.kind: got pgd; allowed fgsm; try method.kind=pgd_at",
        ),
        (
            ["data.long_tail.kind=counts"],
            "data.long_tail.counts: got nothing; allowed a value here: it has no default",
        ),
        (
            ["data.long_tail.kind=counts", "data.long_tail.counts=[3, 0]"],
            "data.long_tail.counts[1]: got 0; allowed a number >= 1",
        ),
        (["epochs.x=3"], "epochs.x: got epochs is not a mapping; allowed a key of the recipe"),
        (["epochs.kind=3"], "epochs.kind: got epochs is not a mapping; allowed a key of the recipe"),
        (["steps"], "steps: got no '='; allowed key=value"),
        (["=3"], "=3: got an empty key; allowed key=value"),
        (["method..kind=mart"], "method..kind=mart: got an empty key; allowed key=value"),
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
        ("method.attack.threat.eps=1", "method.attack.threat.eps: got an unknown field; allowed kind |", "epsilon"),
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
        (["method.kind=standard", "regime.epsilon.kind=ramp"], "regime.epsilon"),
        (["method.attack.kind=fgsm", "regime.steps.kind=ramp"], "regime.steps"),
        (["method.kind=standard", "checkpoint.metric=robust", "evaluation.threat.epsilon=0"], "checkpoint.metric"),
        (["method.kind=standard", "balance.attack.label_smoothing=0.1"], "balance.attack"),
        (["method.kind=trades", "balance.attack.label_smoothing=0.1"], "balance.attack"),
        (["method.kind=mart", "balance.train.label_smoothing=0.1"], "balance.train"),
    ],
)
def test_combinations_that_cannot_work_are_refused_by_name(overrides, setting):
    with pytest.raises(UserError) as caught:
        recipe(*overrides)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["measures=[{kind: kernel}, {kind: kernel}]"],
            "measures[1]: got kernel; allowed measures that differ; try leaving one out",
        ),
        (
            ["regime.phases=[{until: 0.5}, {until: 0.5, attack: {kind: fgsm}}]"],
            "regime.phases[1].until: got 0.5, where regime.phases[0] ends too; allowed a later share of training",
        ),
        (
            ["method.kind=free", "balance.attack.kind=balanced_softmax"],
            "balance.attack: got balanced_softmax; allowed the default, cross_entropy: method free ignores it; "
            "try balance.attack.kind=cross_entropy",
        ),
        (
            ["method.kind=trades", "balance.attack.label_smoothing=0.1"],
            "balance.attack: got cross_entropy with label_smoothing=0.1; allowed the default, cross_entropy: method "
            "trades ignores it; try balance.attack.label_smoothing=0.0",
        ),
        (
            ["method.kind=standard", "guards.catastrophic=rollback"],
            "guards.catastrophic: got rollback; allowed warn: method standard does not attack; "
            "try guards.catastrophic=warn or method.kind=pgd_at",
        ),
        (["method.kind=free", "penalties=[{kind: tail}]"], "penalties: got tail; allowed []: the step of method free"),
        (["method.kind=standard", "crafting=[token_dropping]"], "crafting: got token_dropping; allowed null: method"),
        (
            ["model.batchnorm.running=false", "measures=[{kind: kernel}]"],
            "measures[0].bn_mode: got running; allowed batch with model.batchnorm.running=false: there are no running "
            "statistics; try measures=[{kind: kernel, bn_mode: batch}]",
        ),
        (
            ["evaluation.groups.head=0.9", "evaluation.groups.tail=0.8"],
            "evaluation.groups.tail: got 0.8; allowed at most 1 - head; "
            "try evaluation.groups.head=0.2 evaluation.groups.tail=0.8",
        ),
    ],
)
def test_a_refusal_says_what_there_is_and_a_remedy_that_can_be_written(overrides, line):
    with pytest.raises(UserError) as caught:
        recipe(*overrides)
    assert str(caught.value).startswith(line)


def test_two_phases_may_end_together_where_the_first_may_end_earlier():
    early = "{until: 0.5, below: {value: 0.1}}"
    both = recipe("measures=[{kind: kernel}]", f"regime.phases=[{early}, {{until: 0.5, attack: {{kind: fgsm}}}}]")
    assert [phase.until for phase in both.regime.phases] == [0.5, 0.5]


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
    assert len(message) < 350


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
        (
            {"items": [{"kind": "fruit"}, {"kind": "fruit", "weight": 0}]},
            "items[1].weight: got 0; allowed a number > 0",
        ),
        ({"items": [{"kind": "stone", "weight": 1}]}, "items[0].weight: got an unknown field; allowed kind | name"),
        ({"items": [{"kind": "fruit", "weight": 10}]}, "items[0].weight: got 10.0; allowed at most 9"),
        ({"items": [{"kind": "bread"}]}, "items[0].kind: got bread; allowed fruit | stone"),
        ({"items": [{}]}, "items[0]: got no kind; allowed a mapping with a kind: fruit | stone"),
        ({"by_name": {"apple": {"weight": -1}}}, "by_name.apple.weight: got -1; allowed a number > 0"),
        ({"by_name": {"apple": {"kind": "stone"}}}, "by_name.apple.kind: got stone; allowed fruit"),
    ],
)
def test_mistakes_inside_lists_and_mappings_have_their_place(tree, line):
    with pytest.raises(UserError) as caught:
        config.build(Bag, tree)
    assert str(caught.value) == line


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="abkindmethodattck._=", max_size=25),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers())),
)
def test_no_override_ends_in_anything_but_a_recipe_or_one_line(key, value):
    lines = []
    for override in (f"{key}={value}", f"method.{key}={value}", f"method.attack.{key}={value}"):
        try:
            recipe(override)
        except UserError as error:
            lines.append(str(error))
    assert not any("\n" in line for line in lines)
