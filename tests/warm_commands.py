"""``inure`` and ``python`` without their seconds of imports, for the commands that docs and examples show.

A server process imports the heavy libraries once. Two small scripts, first on PATH, hand it their arguments, folder,
environment and open files; it forks, and the fork runs the command as a fresh process would.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

BIN = Path(sys.executable).parent
_PRELOADED = ("sklearn.datasets", "datasets", "timm", "inure.training.train", "inure.targets.evaluate", "inure.reports")
_SCRIPT = """#!{python} -IS
import json, os, socket, sys
name, arguments = {name!r}, sys.argv[1:]
if name == "python" and (not arguments or arguments[0].startswith("-")):
    os.execv({python!r}, [{python!r}, *arguments])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([name, arguments, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int.from_bytes(server.recv(1), "big"))
"""


class Shell:
    """Runs command lines through bash in a folder, with the environment's commands first on PATH, after ``scripts``."""

    def __init__(self, *scripts: Path) -> None:
        path = os.pathsep.join(map(str, (*scripts, BIN, os.environ["PATH"])))
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "COLUMNS": "100"}
        self.environment = {**os.environ, **quiet, "PATH": path}

    def run(self, line: str, folder: Path, *, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """The outcome of one line; its exit code is the caller's to judge."""
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip


@functools.cache
def warm_shell() -> Shell:
    """A shell whose ``inure`` and ``python`` answer within milliseconds; one for all tests of the process."""
    folder = Path(tempfile.mkdtemp(prefix="inure-warm-"))
    address = str(folder / "socket")
    for name in ("inure", "python"):
        script = folder / name
        script.write_text(_SCRIPT.format(python=sys.executable, name=name, address=address))
        script.chmod(0o755)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE, env=environment)

    def stop() -> None:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)

    atexit.register(stop)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return Shell(folder)


def _serve(address: str) -> NoReturn:
    sys.path.pop(0)  # this file's folder, which no command has on its path
    for name in _PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are reaped by the system
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    header, files, *_ = socket.recv_fds(connection, 8, 3)
    size, request = int.from_bytes(header, "big"), b""
    while len(request) < size:
        request += connection.recv(size - len(request))
    child = os.fork()
    if child == 0:
        connection.close()
        _become(files, *json.loads(request))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(bytes([status if status >= 0 else 128 - status]))
    os._exit(0)


def _become(files: list[int], name: str, arguments: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    for target, source in enumerate(files):
        os.dup2(source, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: object = 0
    # First on PATH lies what called here: children that a command starts by it are forked as well
    sys.executable = shutil.which("python", path=environment.get("PATH")) or sys.executable
    try:
        if name == "inure":
            sys.argv = [str(BIN / "inure"), *arguments]
            importlib.import_module("inure.commands").main()
        else:
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(sys.argv[1])
