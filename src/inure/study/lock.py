"""A file that one process holds while it works on something. The system lets go of it when the process ends."""

import errno
import fcntl
import os
import socket
from pathlib import Path

from ..machine import files

_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Lock:
    """A held lock file, made by ``take``. It is gone from the disk when its last holder has released it.

    The lock is one of POSIX: not a child of the process but the process itself holds it, so ``kill -9`` frees it even
    while workers live on, and over NFS it holds among machines. A process must take a file only once at a time.

    Args:
        path: Where the file is.
        descriptor: Of the open file.
        left_by: Who held it to his death, ``process PID on HOST``; empty if nobody did.
    """

    def __init__(self, path: Path, descriptor: int, left_by: str) -> None:
        self.path, self.left_by = path, left_by
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go, and remove the file unless others share it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (*_HELD, *_NO_LOCKS):
                raise
        finally:
            os.close(self._descriptor)


def take(path: Path, *, shared: bool = False) -> Lock | None:
    """The lock, or None if another process holds it.

    On a file system without locks everybody gets it: there only one process may work.

    Args:
        path: The lock file; made if it is not there.
        shared: Whether others may hold it too, who also share it.

    Raises:
        UserError: If the file cannot be written.
    """
    files.make_folder(path.parent)
    while True:
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS or descriptor < 0:
                if descriptor >= 0:
                    os.close(descriptor)
                if error.errno in _HELD and descriptor >= 0:
                    return None
                raise files.disk_mistake(path, error) from error
        if _is_still(path, descriptor):
            break
        os.close(descriptor)  # released, and removed, between opening and locking
    left_by = "" if shared else os.read(descriptor, 200).decode(errors="replace").strip()
    if not shared:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return Lock(path, descriptor, left_by)


def holder_of(path: Path) -> str:
    """``process PID on HOST``, as its holder wrote it; for a lock that this process does not hold."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (there.st_ino, there.st_dev) == (mine.st_ino, mine.st_dev)
