"""What is loaded when it is used, and that settings, lists and mistakes load nothing large."""

import numpy
import pytest
import torch

import inure
from inure.libraries import Image, Tensor, later, ndimage, nn, np, pa
from inure.libraries import torch as ours
from libraries_checks import loaded_by


def test_all_shipped_recipes_and_studies_are_typed_without_torch():
    script = (
        "from inure.recipe.recipe import load_recipe\n"
        "from inure.recipe.shipped import shipped_names\n"
        "from inure.study import load_study\n"
        "recipes = [load_recipe(name) for name, _ in shipped_names('recipes')]\n"
        "studies = [load_study(name) for name, _ in shipped_names('studies')]\n"
        "assert len(recipes) > 300 and len(studies) > 10\n"
    )
    assert loaded_by(script) == []


def test_everything_is_listed_and_mistakes_are_said_without_torch():
    script = (
        "from inure import commands\n"
        "from inure.commands.listing import KINDS\n"
        "assert commands._run(['list']) == 0\n"
        "for kind in KINDS:\n"
        "    assert commands._run(['list', kind]) == 0, kind\n"
        "for mistake in ('digits/pgd_att', 'digits/pgd_at epoch=1', 'digits/pgd_at method.kind=trade',\n"
        "                'digits/pgd_at method.attack.steps=0', 'digits/standard regime.steps=1',\n"
        "                'digits/pgd_at model.adapters=cls_token', 'digits/pgd_at --resume'):\n"
        "    assert commands._run(['train', *mistake.split()]) == 2, mistake\n"
    )
    assert loaded_by(script) == []


def test_a_library_is_the_module_itself():
    assert np.float32 is numpy.float32
    assert ours.nn.Linear is torch.nn.Linear
    assert nn.Module is torch.nn.Module
    assert pa.table({"a": [1]}).num_rows == 1
    assert Image.new("L", (2, 2)).size == (2, 2)
    assert ndimage.gaussian_filter is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ours.nothing


def test_tensors_are_told_from_others():
    assert isinstance(torch.zeros(1), Tensor)
    assert isinstance(nn.Parameter(torch.zeros(1)), Tensor)
    assert not isinstance(numpy.zeros(1), Tensor)


def test_a_package_loads_a_name_from_its_home_or_says_that_there_is_none():
    get, names = later("inure", {"Linf": "threat", "attacks": "attacks"})
    assert names() == inure.__all__
    assert get("Linf").__module__ == "inure.threat"
    assert get("attacks").__name__ == "inure.attacks"
    with pytest.raises(AttributeError, match="module 'inure' has no attribute 'PGD'"):
        get("PGD")
