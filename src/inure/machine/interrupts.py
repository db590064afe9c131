"""Why a run should leave before its end: SIGTERM, Ctrl-C, or its time is up. Asked for between two steps."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Notes SIGTERM and SIGINT while open, and watches the clock.

    A second signal, a second or more after the first, ends the process at once: launchers hand a Ctrl-C on
    immediately, and that must not count twice.

    Args:
        deadline: On ``time.monotonic``'s clock; None: none.
    """

    def __init__(self, deadline: float | None) -> None:
        self.signal: int | None = None
        """The one that came."""
        self._deadline = deadline
        self._since = 0.0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._handlers[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller handles signals
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def wanted(self) -> bool:
        """Whether this process has been asked to leave."""
        return self.signal is not None or (self._deadline is not None and time.monotonic() > self._deadline)

    @property
    def reason(self) -> str:
        """For the log."""
        return "max_minutes" if self.signal is None else "signal"

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and time.monotonic() > self._since + 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal, self._since = number, time.monotonic()
