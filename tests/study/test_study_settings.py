"""What a study's YAML means: axes and their levels, scales, runs before, what is compared with what, and mistakes."""

import pytest
import yaml

from inure.settings import config, trees
from inure.settings.errors import UserError
from inure.study import Study
from inure.study.cells import reference_of

YAML = """
set: [epochs=3]
axes:
  net: {ViT: {base: digits/pgd_at, set: [model.patch_size=4]}, CNN: {base: digits/standard}}
  length: {40: [epochs=40], 80: [epochs=80]}
grid: {batch_size: [64]}
against: {length: 40}
scales:
  smoke:
    set: [epochs=1]
    seeds: [0, 1]
    axes: {length: {1: [], 2: [epochs=2]}}
    against: {length: 1}
  gpu: {suite: pgd20, grid: {batch_size: [128, 256]}}
"""


def study(text: str = YAML) -> Study:
    return config.build(Study, yaml.safe_load(text))


def test_levels_are_named_bundles_that_are_crossed_the_last_axis_fastest():
    made = Study(
        set=["epochs=3"],
        axes={
            "net": {
                "ViT": {"base": "digits/pgd_at", "set": ["model.patch_size=4"]},
                "CNN": {"base": "digits/standard"},
            },
            "length": {"as it is": [], "long": ["epochs=80", "checkpoint.every=80"]},
        },
        grid={"batch_size": [64, 128]},
    )  # fmt: skip
    cells = list(made.cells())
    assert [cell.name for cell in cells[:3]] == [
        "ViT, as it is, batch_size=64", "ViT, as it is, batch_size=128", "ViT, long, batch_size=64"
    ]  # fmt: skip
    assert len(cells) == 8
    third = cells[2]
    assert third.base == "digits/pgd_at"
    assert third.overrides == [
        "epochs=3", "model.patch_size=4", "epochs=80", "checkpoint.every=80", "batch_size=64"
    ]  # fmt: skip
    assert third.levels == {"net": "ViT", "length": "long", "batch_size": 64}


def test_levels_of_one_name_are_told_apart_by_their_axis():
    made = Study(base="digits/pgd_at", axes={"clipping": {"no": [], "yes": []}, "mixing": {"no": [], "strong": []}})
    assert [cell.name for cell in made.cells()] == [
        "clipping=no, mixing=no", "clipping=no, strong", "yes, mixing=no", "yes, strong"
    ]  # fmt: skip


def test_a_scale_adds_to_set_and_replaces_the_rest():
    smoke = study().at("smoke")
    assert (smoke.set, smoke.seeds, smoke.scale, smoke.scales) == (["epochs=3", "epochs=1"], [0, 1], "smoke", {})
    assert list(smoke.axes) == ["net", "length"]
    assert list(smoke.axes["length"]) == ["1", "2"]
    assert list(smoke.axes["net"]) == ["ViT", "CNN"]
    gpu = study().at("gpu")
    assert (gpu.suite, gpu.grid, gpu.seeds) == ("pgd20", {"batch_size": [128, 256]}, [0])
    assert list(gpu.axes["length"]) == ["40", "80"]


def test_smoke_is_the_scale_where_none_is_named():
    assert study().at() == study().at("smoke")
    assert Study(base="digits/pgd_at").at() == Study(base="digits/pgd_at")


def test_a_study_of_one_scale_is_itself_again_when_read_back():
    smoke = study().at("smoke")
    assert config.build(Study, yaml.safe_load(trees.to_yaml(config.dump(smoke)))) == smoke
    assert smoke.at("smoke") == smoke


def test_each_cell_is_compared_with_the_one_that_has_the_levels_of_against_and_is_else_equal():
    made = study().at("gpu")
    pairs = {cell.name: reference_of(made, cell) for cell in made.cells()}
    assert pairs["ViT, 80, batch_size=256"] == "ViT, 40, batch_size=256"
    assert pairs["CNN, 80, batch_size=128"] == "CNN, 40, batch_size=128"
    assert pairs["ViT, 40, batch_size=128"] is None
    several = Study(
        base=["digits/standard", "digits/pgd_at"],
        grid={"epochs": [1, 2]},
        against={"base": "digits/standard", "epochs": 1},
    )
    pairs = {cell.name: reference_of(several, cell) for cell in several.cells()}
    assert pairs == {
        "digits/standard, epochs=1": None,
        "digits/standard, epochs=2": "digits/standard, epochs=1",
        "digits/pgd_at, epochs=1": "digits/standard, epochs=1",
        "digits/pgd_at, epochs=2": "digits/standard, epochs=1",
    }
    unpaired = Study(base="digits/pgd_at", grid={"epochs": [1, 2]})
    assert {reference_of(unpaired, cell) for cell in unpaired.cells()} == {None}


def test_overrides_of_the_command_line_are_for_cells_or_for_runs_before():
    before = {"clean": {"base": "digits/standard"}, "robust": {"base": "digits/pgd_at", "set": ["epochs=4"]}}
    made = Study(base="digits/pgd_at", set=["epochs=3"], before=before).with_overrides(
        ["data.skip_bad=true", "before.epochs=9", "before.robust.data.source=a.b=c"], [4, 5]
    )
    assert made.set == ["epochs=3", "data.skip_bad=true"]
    assert made.before["clean"].set == ["epochs=9"]
    assert made.before["robust"].set == ["epochs=4", "epochs=9", "data.source=a.b=c"]
    assert made.seeds == [4, 5]
    with pytest.raises(UserError, match=r"before.epochs=9: got a setting of runs before"):
        Study(base="digits/pgd_at").with_overrides(["before.epochs=9"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": None}, "base: got nothing; allowed a recipe, here or in every level"),
        ({"axes": {"clipping": {True: []}}}, "axes.clipping.*: got True; allowed a name in quotes"),
        ({"axes": {"clipping": {}}}, "axes.clipping: got {}"),
        ({"axes": {"net": {"a": {"bas": "x"}}}}, "axes.net.a.bas: got an unknown field.*did you mean base"),
        (
            {"axes": {"a": {"x": {"base": "digits/mart"}}, "b": {"y": {"base": "digits/mart"}}}},
            "axes: got base in a and b; allowed recipes in one place",
        ),
        ({"axes": {"a": {"8/255": [], "8_255": []}}}, "axes: got 8/255 and 8_255; allowed cells whose names differ"),
        ({"against": {"clipin": "no"}}, "against.clipin: got clipin; allowed clipping; try clipping"),
        ({"against": {"clipping": "maybe"}}, r"against.clipping: got maybe; allowed no \| yes"),
        ({"before": {"clean": {"set": []}}}, "before.clean.base: got nothing"),
        ({"before": {"a b": {"base": "digits/mart"}}}, "before.a b: got a b; allowed a name of letters"),
        ({"set": ["model.weights={clean}"]}, "set: got {clean}, a run that is not in before"),
        (
            {"before": {"a": {"base": "digits/mart", "set": ["model.weights={a}"]}}},
            "before.a.set: got {a}, a run that is not in before",
        ),
        ({"scale": "smoke", "scales": {"gpu": {}}}, "scale: got smoke; allowed nothing where there are scales"),
        ({"scales": {"gpus": {}}}, "scales.*: got gpus; allowed smoke"),
        ({"scales": {"gpu": {"against": {"clipping": "off"}}}}, "scales.gpu.against.clipping: got off"),
        ({"scales": {"gpu": {"seed": [0]}}}, "scales.gpu.seed: got an unknown field.*did you mean seeds"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(change, message):
    good = {"base": "digits/pgd_at", "axes": {"clipping": {"no": [], "yes": []}}}
    assert Study(**good)
    with pytest.raises(UserError, match=message):
        Study(**{**good, **change})


@pytest.mark.parametrize(
    ("scales", "scale", "message"),
    [
        ({}, "smoke", "--scale: got smoke; allowed nothing: this study has one form"),
        ({"smoke": {}, "gpu": {}}, "paper", r"--scale: got paper; allowed smoke \| gpu"),
        ({"gpu": {}}, None, "--scale: got nothing; allowed gpu"),
    ],
)
def test_a_scale_that_a_study_has_not_is_refused(scales, scale, message):
    with pytest.raises(UserError, match=message):
        Study(base="digits/pgd_at", scales=scales).at(scale)
