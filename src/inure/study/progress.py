"""How far a study is: the bar, a line for each run with the time left, and files that show what there is so far."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..display.console import Bars, markdown
from ..machine import files
from .figure import figure_of
from .jobs import Job, run_job
from .results import CellResult, collect
from .sharing import Ended
from .study import Study
from .table import header_of, rows_of

_DRAW_SECONDS = 60
"""Between two drawings of what there is so far."""


class Progress:
    """Does runs, says which and how long the others will take, and keeps table and figure up to date.

    Args:
        study: The study.
        out: Its folder.
        jobs: All its runs.
        quiet: No progress on stderr.
        writes: Whether this process keeps the records; of a group of processes only the first does.
    """

    def __init__(self, study: Study, out: Path, jobs: Sequence[Job], *, quiet: bool, writes: bool) -> None:
        self.study, self.out, self.jobs, self.quiet, self.writes = study, out, jobs, quiet, writes
        self.bars = Bars(quiet=quiet)
        self.ended = Ended(jobs)
        self._begin, self._before = time.monotonic(), len(self.ended.records)
        self._drawn = -float(_DRAW_SECONDS)

    def __enter__(self) -> "Progress":
        self.bars.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.bars.__exit__(*raised)

    def do(self, job: Job) -> None:
        """Train and evaluate one run, and keep its record."""
        done, left = self.ended.look(), self._left()
        self.bars.show("study", done, len(self.jobs), note=left)
        self.bars.say(f"[{done + 1}/{len(self.jobs)}] {job.title}" + (f"; {left}" if left else ""))
        record = run_job(job, self.ended.failures, quiet=self.quiet)
        if self.writes:
            job.finish(record)
        self.ended.records[job.folder] = record
        if self.writes and time.monotonic() - self._drawn >= _DRAW_SECONDS:
            self.write()
            self._drawn = time.monotonic()

    def write(self) -> list[CellResult]:
        """Write study.json, table.md and figure.png of the runs that are done."""
        self.ended.look()
        results = collect(self.study, self.jobs, self.ended.records)
        record = {"about": self.study.about, "scale": self.study.scale, "against": self.study.against}
        files.write_json(self.out / "study.json", {**record, "cells": [cell.record() for cell in results]})
        files.write_text(self.out / "table.md", markdown(header_of(results), rows_of(results)))
        files.write_bytes(self.out / "figure.png", figure_of(results))
        return results

    def _left(self) -> str:
        """By the rate at which all processes together have finished runs since this one began."""
        done = len(self.ended.records)
        if done <= self._before:
            return ""
        seconds = (time.monotonic() - self._begin) / (done - self._before) * (len(self.jobs) - done)
        return f"{duration(seconds)} left"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
