"""The studies that come with Inure: each asks one question, and every cell at every scale is a recipe that exists."""

import pytest

from inure.study import load_study
from inure.study.jobs import jobs_of, refuse_other_measures

STUDIES = {
    "vit_pretraining": (4, 4, 4),
    "vit_clipping": (4, 6, 6),
    "vit_epochs": (2, 2, 2),
    "vit_augmentation": (5, 5, 5),
    "vit_optimizer": (6, 6, 6),
    "vit_warmup": (5, 5, 5),
    "vit_tricks": (24, 24, 24),
    "vit_size": (3, 5, 8),
    "deat_grid": (36, 36, 36),
    "which_method": (18, 18),
}
"""How many cells there are for smoke, gpu and paper, as far as there are these."""
SCALES = ("smoke", "gpu", "paper")


def test_each_study_says_its_question_in_a_line():
    for name in STUDIES:
        about = load_study(name).about
        assert "?" in about, name
        assert len(about) < 125, name
        assert "\n" not in about, name


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_has_three_scales_and_compares(name):
    study = load_study(name)
    assert tuple(study.scales) == SCALES[: len(STUDIES[name])]
    for scale, count in zip(study.scales, STUDIES[name], strict=True):
        cells = list(study.at(scale).cells())
        assert len(cells) == count
        assert study.at(scale).against
    assert study.at("smoke").seeds == [0, 1]


@pytest.mark.parametrize(
    ("name", "scale"),
    [(name, scale) for name in ("digits_methods", *STUDIES) for scale in load_study(name).scales or (None,)],
)
def test_every_cell_is_a_recipe(name, scale, tmp_path):
    study = load_study(name).at(scale)
    jobs = jobs_of(study, tmp_path)
    refuse_other_measures(study, jobs)
    assert {job.seed for job in jobs} == {*study.seeds}
    cells = [job for job in jobs if job.is_cell and job.seed == study.seeds[0]]
    # Two cells of equal settings would be one question asked twice
    assert len({job.recipe.model_copy(update={"about": ""}).model_dump_json() for job in cells}) == len(cells)
    if scale == "smoke":
        assert {job.recipe.data.source for job in jobs} == {"digits"}
