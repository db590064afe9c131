"""Who does which run of a study: one process, several that share it, or one run on several devices at a time."""

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..machine import engine
from ..settings.errors import UserError
from .jobs import Job
from .lock import holder_of, take

_POLL_SECONDS = 1.0
"""Between two looks at runs that other processes have in work."""

Do = Callable[[Job], None]
"""Does a run and puts its record among those of ``Ended``."""


class Ended:
    """The records of the runs that are done, by whichever process.

    Args:
        jobs: All runs of the study.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.records: dict[Path, dict[str, Any]] = {}
        self.look()

    def look(self) -> int:
        """Read what has come, and count all."""
        for job in self.jobs:
            self.has(job)
        return len(self.records)

    def has(self, job: Job) -> bool:
        """Whether a run is done."""
        if job.folder not in self.records and (record := job.result()) is not None:
            self.records[job.folder] = record
        return job.folder in self.records

    @property
    def failures(self) -> dict[Path, str]:
        """Why a run failed, by folder."""
        return {folder: record["failure"] for folder, record in self.records.items() if record.get("failure")}


def in_group(jobs: Sequence[Job]) -> bool:
    """Whether several processes work on each run together. They must all take the runs in the same order."""
    return engine.is_launched() or any(job.recipe.engine.devices != 1 for job in jobs)


@contextmanager
def entered(out: Path, *, group: bool):
    """The folder of the study, shared with other processes; alone, where a group of processes does each run.

    Raises:
        UserError: If others are in it with whom it cannot be shared.
    """
    lock = take(out / "study.lock", shared=not group)
    if lock is None:
        allowed = "a folder where nobody works, as each run here is on several devices"
        raise UserError("--out", f"{out}, in use", allowed if group else "one that is not used by several devices")
    try:
        yield
    finally:
        lock.release()


def do_in_order(jobs: Sequence[Job], ended: Ended, do: Do) -> None:
    """Every run that is not done, in order; called in each process of a group."""
    for job in jobs:
        if not ended.has(job):
            do(job)


def share(jobs: Sequence[Job], ended: Ended, do: Do, say: Callable[[str], None]) -> None:
    """Every run that is not done and that no other process is at, until all are done.

    What others have in work is passed over and waited for at the end: if such a process dies, its run is taken over.
    """
    told: list[str] = []
    while left := [job for job in jobs if not ended.has(job)]:
        begun = [job for job in left if _do_unless_held(job, ended, do, say)]
        waiting = [job for job in left if not ended.has(job)]
        if begun or not waiting:
            continue
        held = [f"{job.title} ({holder_of(job.lock)})" for job in waiting if job.lock.exists()]
        if held and held != told:
            say(f"waiting for what other processes have in work: {'; '.join(held)}")
            told = held
        time.sleep(_POLL_SECONDS)


def _do_unless_held(job: Job, ended: Ended, do: Do, say: Callable[[str], None]) -> bool:
    """Whether this process has done the run now."""
    if ended.has(job) or not all(ended.has(need) for need in job.needs):
        return False
    lock = take(job.lock)
    if lock is None:
        return False
    try:
        if ended.has(job):  # finished between the look and the lock
            return False
        if lock.left_by:
            say(f"taking over {job.title} from {lock.left_by}, which is gone")
        do(job)
        return True
    finally:
        lock.release()
