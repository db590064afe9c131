"""What a person sees while something runs: progress bars with rates and time left, and tables. All on stderr."""

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def stderr() -> Console:
    """The console of all progress and tables; stdout carries the result alone."""
    return Console(stderr=True, highlight=False)


_OPEN: ContextVar["Bars | None"] = ContextVar("open bars", default=None)
"""The innermost ones."""


class Bars:
    """Progress bars; with ``quiet`` none, nor on a stderr that is no terminal.

    While others are open, these stand below them and go when they are closed.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._outer = None if quiet else _OPEN.get()
        if self._outer is not None:
            self.console, self._progress = self._outer.console, self._outer._progress
        else:
            self.console = stderr()
            self._progress = self._new_progress()
        self._tasks: dict[str, TaskID] = {}
        self._token: Token[Bars | None] | None = None

    def _new_progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=self.quiet or not self.console.is_terminal,
            refresh_per_second=4,
        )

    def __enter__(self) -> Self:
        if self._outer is None:
            self._progress.start()
        if not self.quiet:
            self._token = _OPEN.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _OPEN.reset(self._token)
        if self._outer is None:
            self._progress.stop()
            return
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()

    def show(self, name: str, done: int, total: int, *, note: str = "", unit: str = "") -> None:
        """Move the bar ``name``, made at its first call."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, rate="", note=note)
        task = self._progress.tasks[self._progress.task_ids.index(self._tasks[name])]
        if done < task.completed:  # a new epoch
            self._progress.reset(task.id, total=total)
        rate = f"{task.speed:.0f} {unit}/s" if task.speed and unit else ""
        self._progress.update(self._tasks[name], completed=done, total=total, note=note, rate=rate)

    def attack(self, name: str, done: int, total: int, standing: int) -> None:
        """The bar of one attack of an evaluation."""
        self.show(name, done, total, note=f"standing {standing}", unit="images")

    def say(self, line: str) -> None:
        """A line above the bars."""
        if not self.quiet:
            self.console.print(line, markup=False, soft_wrap=True)


def table(title: str, columns: list[str], rows: list[list[Any]], *, words: bool = False) -> Table:
    """A small table; the first column is text, the others are figures or, with ``words``, text too."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if words or position == 0 else "right", overflow="fold")
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    return made


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """The same as a table of Markdown."""
    head, *body = ("| " + " | ".join(str(cell) for cell in line) + " |" for line in [columns, *rows])
    return "\n".join([head, "|" + "---|" * len(columns), *body]) + "\n"


def percent(share: float | None) -> str:
    """``0.1234`` as ``12.3 %``."""
    return "-" if share is None else f"{100 * share:.1f} %"


def points(difference: float, interval: tuple[float, float]) -> str:
    """A difference of shares in percentage points: ``+1.4 [-3.0, +5.8]``."""
    return f"{100 * difference:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def with_interval(share: float | None, interval: list[float] | tuple[float, float] | None) -> str:
    """``88.1 % [84.3, 91.0]``."""
    if share is None or interval is None:
        return percent(share)
    return f"{percent(share)} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
