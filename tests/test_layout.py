"""The house: few files at the root, names that say what is inside, nothing that is both a function and a module."""

import importlib
from pathlib import Path

import inure

SOURCE = Path(inure.__file__).parent
FILES = [path for path in SOURCE.rglob("*.py") if "__pycache__" not in path.parts]
PACKAGES = [path.parent for path in FILES if path.name == "__init__.py"]


def test_the_root_holds_the_eight_words_that_everything_uses():
    words = {"__init__", "__main__", "types", "threat", "losses", "schedules", "noise", "memory"}
    assert {path.stem for path in SOURCE.glob("*.py")} == words


def test_no_file_is_longer_than_300_lines():
    assert [path.name for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 300] == []


def test_no_name_says_nothing():
    empty = {"utils", "util", "helpers", "common", "misc", "base"}
    assert [path for path in (*FILES, *PACKAGES) if path.stem in empty] == []


def test_every_folder_says_what_it_holds():
    for folder in PACKAGES:
        module = importlib.import_module(".".join(("inure", *folder.relative_to(SOURCE).parts)))
        assert module.__doc__, folder


def test_a_name_that_a_folder_offers_is_not_also_that_of_a_file_in_it():
    # Importing the file would put the module in the name's place
    for folder in PACKAGES:
        module = importlib.import_module(".".join(("inure", *folder.relative_to(SOURCE).parts)))
        offered = {name for name in getattr(module, "__all__", ()) if not hasattr(getattr(module, name), "__path__")}
        inside = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
        assert offered & inside == set(), folder


def test_completion_shows_what_a_folder_offers():
    for folder in PACKAGES:
        module = importlib.import_module(".".join(("inure", *folder.relative_to(SOURCE).parts)))
        assert {*getattr(module, "__all__", ())} <= {*dir(module)}, folder


def test_completion_shows_the_public_names_and_no_others():
    assert {"train", "evaluate", "load", "Linf"} <= {*dir(inure)}
    assert {*dir(inure)} == {*inure.__all__, "__version__"}
    assert not [name for name in inure.__all__ if name.startswith("_")]
    for name in dir(inure):
        assert getattr(inure, name) is not None
