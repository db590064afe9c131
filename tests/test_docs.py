"""The documentation is run: its commands and programs work, its keys, options and links exist, nothing is left out.

Every fenced code block names a language and what is done with it: ``bash run``, ``bash slow``, ``python save net.py``.
"""

import re
import shlex
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

import inure
from inure.averaging import AVERAGINGS
from inure.balance import CRITERIA
from inure.commands import app
from inure.models.adapters import ADAPTERS
from inure.penalties import PENALTIES
from inure.perturbation import PERTURBATIONS
from inure.settings.config import Settings
from warm_commands import Shell, warm_shell

ROOT = Path(__file__).parent.parent
CARDS = sorted((ROOT / "docs/cards").glob("*.md"))
PIECES = ROOT / "docs/pieces.md"
GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("guide", "pieces", "dial", "robustness")]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *GUIDES, *CARDS]
TAGS = {"run", "slow", "gpu", "show", "save"}
HEADINGS = ["Objective", "Knobs", "Cost", "Composes with", "Evidence", "Deviations", "Paper"]

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced code block: ``tag`` says what the tests do with it, ``name`` is the file of a ``save`` block."""

    line: int
    language: str
    tag: str
    name: str
    text: str

    def lines(self) -> list[str]:
        """Its commands; a backslash at the end continues one."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page that name a language."""
    found = []
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(), re.MULTILINE):
        language, tag, name, *_ = [*match[1].split(), "", "", ""]
        if language:
            line = page.read_text().count("\n", 0, match.start()) + 1
            found.append(Block(line, language, tag, name, match[2]))
    return found


@pytest.fixture(scope="module")
def shell():
    return warm_shell()


def follow(page: Path, shell: Shell, folder: Path, tags: set[str]) -> None:
    """Do what the page says, in order, in ``folder``, as a reader would in a checkout."""
    for name in ("examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for number, block in enumerate(blocks_of(page)):
        if block.tag == "save":
            (folder / block.name).write_text(block.text)
        if block.tag not in tags:
            continue
        lines = block.lines()
        if block.language == "python":
            (folder / f"block{number}.py").write_text(block.text)
            lines = [f"python block{number}.py"]
        for line in lines:
            done = shell.run(line, folder, seconds=300)
            assert done.returncode == 0, f"{page.name}:{block.line}: {line}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, f"{page.name}:{block.line}: {line}\n{done.stderr}"


@pages
def test_every_block_says_what_is_done_with_it(page):
    for block in blocks_of(page):
        assert block.tag in TAGS, f"{page.name}:{block.line}: ```{block.language} {block.tag}"
        assert (block.tag == "save") == bool(block.name), f"{page.name}:{block.line}"
        assert block.tag not in ("run", "slow", "gpu") or block.language in ("bash", "python")


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.tag == "run" for b in blocks_of(p))], ids=lambda p: p.stem)
def test_what_the_page_shows_works(page, shell, tmp_path):
    follow(page, shell, tmp_path, {"run"})


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.tag == "slow" for b in blocks_of(p))], ids=lambda p: p.stem)
def test_what_the_page_shows_works_where_it_is_slow(page, tmp_path):
    follow(page, Shell(), tmp_path, {"run", "slow"})


@pytest.mark.gpu
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.tag == "gpu" for b in blocks_of(p))], ids=lambda p: p.stem)
def test_what_the_page_shows_works_on_a_gpu(page, tmp_path):
    follow(page, Shell(), tmp_path, {"gpu"})


def commands_of(page: Path) -> list[tuple[Block, list[str]]]:
    """Every ``inure ...`` of the page's bash blocks, in words."""
    found = []
    for block in blocks_of(page):
        for line in block.lines() if block.language == "bash" else ():
            words = shlex.split(line)
            starts = [i for i, word in enumerate(words) if word == "inure"]
            if starts and (starts[0] == 0 or words[starts[0] - 1] == "-m"):
                found.append((block, words[starts[0] + 1 :]))
    return found


@pages
def test_every_option_exists(page):
    verbs = typer.main.get_command(app)
    for block, (verb, *words) in commands_of(page):
        if not verb.startswith("-"):
            command = verbs.commands[verb]
            with command.make_context(verb, words) as context:
                assert context.params, f"{page.name}:{block.line}"


@pages
def test_every_key_fits_the_recipe_that_it_is_used_with(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        if block.tag == "save":
            Path(block.name).write_text(block.text)
    for block, (verb, *words) in commands_of(page):
        if verb == "train":
            keys = [word for word in words[1:] if re.match(r"[a-z_.]+=", word) and not word.startswith("seeds=")]
            recipe = inure.load_recipe(words[0], keys)
            assert isinstance(recipe, inure.Recipe), f"{page.name}:{block.line}"


def known_keys(settings: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe, those of all members of a union included."""
    for name, field in settings.model_fields.items():
        yield prefix + name
        for member in _settings_in(field.annotation):
            yield from known_keys(member, f"{prefix}{name}.")


def _settings_in(hint: object) -> Iterator[type]:
    if isinstance(hint, type) and issubclass(hint, Settings):
        yield hint
    for argument in typing.get_args(hint):
        yield from _settings_in(argument)


@pages
def test_every_key_in_the_text_exists_and_takes_the_value(page):
    slots = {name for name in inure.Recipe.model_fields if name not in ("seed", "about")}
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    joints = ["perturbation.kind=awp", "averaging.kind=ema", "model.weights=RUN"]
    joints += ["data.long_tail.kind=exp", "data.label_noise.kind=symmetric"]
    for word in " ".join(re.findall(r"`([^`]+)`", text)).split():
        match = re.fullmatch(r"(([a-z]+)(?:\.[a-z_]+)+)(?:=(.+))?", word)
        if match and match[2] in slots:
            assert match[1] in known_keys(inure.Recipe), f"{page.name}: {word}"
            if match[3]:
                method = ["method.kind=co_training"] if "adapters" in match[1] else []
                needed = [joint for joint in joints if joint.startswith(f"{match[2]}.")]
                inure.load_recipe("cifar10/pgd_at_resnet18", [*needed, *method, f"{match[1]}={match[3]}"])


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for text, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = page.parent / path if path else page
        assert found.exists(), f"{page.name}: [{text}]({target})"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{page.name}: [{text}]({target})"


def test_every_make_target_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


KINDS = {
    folder: [cls.model_fields["kind"].default for cls in classes]
    for folder, classes in {
        "methods": inure.methods.METHODS,
        "attacks": inure.attacks.ATTACKS,
        "optimizers": inure.optimizers.OPTIMIZERS,
        "joints": (*PERTURBATIONS, *AVERAGINGS, *CRITERIA, *PENALTIES),
    }.items()
}
KINDS["adapters"] = [*ADAPTERS]


@pytest.mark.parametrize(("folder", "kinds"), KINDS.items(), ids=KINDS)
def test_every_piece_has_its_card_in_the_table(folder, kinds):
    table = PIECES.read_text().partition(f"\n## {folder.capitalize()}\n")[2].partition("\n## ")[0]
    for kind in kinds:
        row = re.search(rf"^\|[^|]*`{kind}`.*\((cards/\w+\.md)\) \|$", table, re.MULTILINE)
        assert row, f"no card for {kind} of {folder}"
        assert (PIECES.parent / row[1]).is_file()


def test_every_card_has_its_row_in_a_table():
    linked = set(re.findall(r"^\|.*\(cards/(\w+)\.md\) \|$", PIECES.read_text(), re.MULTILINE))
    assert linked == {card.stem for card in CARDS} - {"README"}


def test_the_map_is_that_of_the_layers():
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    numbers = {name: len(layers) - i for i, layer in enumerate(layers) for name in layer.split(" | ")}
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (\d+) \| \[[^]]+\]\(src/inure/(\w+?)(?:\.py)?\) \|", page, re.MULTILINE)
    assert {name: int(number) for number, name in rows} == numbers
    assert [int(number) for number, _ in rows] == sorted(numbers.values(), reverse=True)


@pytest.mark.parametrize("card", [c for c in CARDS if c.stem != "README"], ids=lambda card: card.stem)
def test_a_card_is_complete_and_fits_a_page(card):
    text = card.read_text()
    assert "**tl;dr**" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    for wanted in HEADINGS if card.stem != "evaluation" else [h for h in HEADINGS if h != "Composes with"]:
        assert any(heading.startswith(wanted) for heading in headings), f"{card.stem}: {wanted}"
    assert "not measured yet" in text or "- Ours: " in text
    assert len(text.splitlines()) <= 70
