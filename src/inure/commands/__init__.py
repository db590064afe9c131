"""The command line: one file per verb. Verbs import what they need when they run, so that --help is quick."""

import sys
from typing import Annotated, Any

import typer

from ..settings.errors import NonFinite, Stop, UserError, unknown_name
from . import analyze, compare, evaluate, export, listing, predict, report, reproduce, soup, study, train

_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]
"""click's UsageError, wherever this version of typer keeps it."""

app = typer.Typer(
    name="inure",
    help="Train image classifiers that keep working when their input is attacked, and measure how robust they are.",
    epilog="First steps:  inure train digits/pgd_at   then   inure evaluate RUN   then   inure report RUN",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"inure {metadata.version('inure')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("soup")(soup.soup)
app.command("study")(study.study)
app.command("analyze")(analyze.analyze)
app.command("reproduce")(reproduce.reproduce)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("list")(listing.list_items)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    0 done; 1 a fault; 2 the user's mistake; 3 a gate failed; 130 and 143 stopped by a signal after saving.
    """
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        result = app(arguments, prog_name="inure", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except UserError as mistake:
        return _complain(mistake)
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            return 2
        return _complain(_usage_mistake(error, sys.argv[1:] if arguments is None else arguments))
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> int:
    if isinstance(error, Stop):
        if _is_child():  # the launcher takes any other code for a failure and kills the processes that still save
            return 0
        print(error.run)
        remedy = f"--out {error.run}" + (" --resume" if (error.run / "recipe.yaml").exists() else "")
        if error.signal is not None:
            _say(f"stopped by a signal; continue with {remedy}")
            return 128 + error.signal
        _say(f"stopped by --max-minutes; continue with {remedy}")
        return 0
    if isinstance(error, NonFinite):
        line = f"a loss or gradient was not finite at {error}; last good checkpoint: {error.checkpoint}"
        _say(f"{line}; try a lower lr or guards.nonfinite=rollback")
        return 1
    raise error


def _complain(mistake: UserError) -> int:
    _say(str(mistake))
    return 2


def _say(line: str) -> None:
    if not _is_child():  # of several processes that fail alike, one speaks
        print(f"inure: {line}", file=sys.stderr)


def _is_child() -> bool:
    from ..machine.engine import is_child

    return is_child()


def _usage_mistake(error: Any, arguments: list[str]) -> UserError:
    """Click's complaint in our words."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "inure"
    remedy = f"{path} --help"
    kind = type(error).__name__
    if kind == "NoSuchOption":
        options = [o for p in context.command.params for o in p.opts if o.startswith("--")] if context else []
        nearest = unknown_name(error.option_name, error.option_name, options)
        if path == "inure train" and (setting := _as_setting(error.option_name)):
            return UserError(error.option_name, "an unknown option", nearest.allowed, setting)
        return UserError(error.option_name, "an unknown option", nearest.allowed, nearest.remedy or remedy)
    if kind == "MissingParameter" and error.param is not None:
        return UserError(error.param.metavar or error.param.name.upper(), "nothing", "a value", remedy)
    if kind == "BadOptionUsage" and "requires an argument" in error.message:
        return UserError(error.option_name, "nothing", "a value", remedy)
    if kind == "BadParameter" and error.param is not None:
        name = next((o for o in error.param.opts if o.startswith("--")), error.param.name)
        allowed = error.message.removeprefix("Input should be ").partition(",")[0].rstrip(".")
        return UserError(name, _given(name, arguments), allowed, remedy)
    commands = list(getattr(getattr(context, "command", None), "commands", {}))
    words = error.message.split("'")
    if "No such command" in error.message and len(words) > 1:
        return unknown_name("COMMAND", words[1], commands)
    return UserError(path, error.message.removeprefix("Got ").rstrip("."), "what --help shows", remedy)


def _as_setting(option: str) -> str | None:
    """``seed=VALUE`` for ``--seed``: settings of the recipe are written without dashes."""
    from ..recipe.recipe import Recipe

    key = option.removeprefix("--").replace("-", "_")
    return f"{key}=VALUE" if key.partition(".")[0] in Recipe.model_fields else None


def _given(option: str, arguments: list[str]) -> str:
    """The text that followed ``option``."""
    for position, argument in enumerate(arguments, start=1):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option:
            return " ".join(arguments[position : position + 1])
    return "a value of another type"
