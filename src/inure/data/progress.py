"""A progress bar that shows only when it is worth it."""

import time
from types import TracebackType


class SlowProgress:
    """Draws a bar on stderr once the work has taken two seconds; nothing at all where stderr is no terminal."""

    def __init__(self, text: str, total: int, *, after: float = 2.0) -> None:
        """``total`` is what the ``advance`` calls add up to; ``after`` is in seconds."""
        self._text, self._total, self._after = text, total, after
        self._start = time.monotonic()
        self._done = 0
        self._bar = None

    def __enter__(self) -> "SlowProgress":
        return self

    def advance(self, amount: int) -> None:
        """``amount`` more is done."""
        self._done += amount
        if self._bar is None and time.monotonic() - self._start > self._after:
            self._show()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._after = float("inf")
        if console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.add_task(self._text, total=self._total)
            self._bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
