"""YAML is read by libyaml where that is there: what it finds is what PyYAML's own parser finds."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inure.recipe.shipped import find_shipped
from inure.settings.errors import UserError
from inure.settings.trees import read_yaml

ROOT = find_shipped("recipes", "digits/pgd_at", "RECIPE").parents[2]
FILES = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("studies/**/*.yaml")])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False), st.text(max_size=12),
    st.sampled_from(["8/255", "1e-3", "on", "yes", "null", "~", "0x10", "1_000", "12:30", "2026-12-01", ".5", "="]),
)  # fmt: skip
TREES = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)),
    max_size=5,
)


def test_every_shipped_file_is_read_alike():
    assert len(FILES) > 60
    for path in FILES:
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8")), path


@given(TREES, st.booleans())
def test_any_settings_are_read_alike(tmp_path_factory, tree, escaped):
    path = tmp_path_factory.mktemp("trees") / "one.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=not escaped), encoding="utf-8")
    try:
        expected = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        with pytest.raises(UserError):
            read_yaml(path)
        return
    assert read_yaml(path) == expected


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tb: 1", "a: *none", "- 1\nb: 2"])
def test_a_mistake_is_said_in_the_words_of_pyyaml(tmp_path, text):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(yaml.YAMLError) as theirs:
        yaml.safe_load(text)
    with pytest.raises(UserError) as ours:
        read_yaml(path)
    assert ours.value.given == str(theirs.value)
