"""The worst-case image of every example, written while an evaluation runs, with never more than a batch in memory."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..libraries import Tensor, np, torch
from ..machine import files
from ..settings.errors import UserError
from ..threat import Geometry, describe_threat
from .examples import Examples
from .results import ADVERSARIAL
from .verdicts import Verdicts

PARTIAL = "adversarial.partial"
"""The file while it is not complete."""
_SETTING = "--store-adversarial"


class StoredImages:
    """``adversarial.safetensors``: ``index`` and ``label`` (N,) int64, ``x_adv`` (N, C, H, W) float32.

    ``x_adv`` is the image that broke the example; of one that stands, or was wrong from the beginning, it is the
    clean image. Rows are in the order of the examples, whoever found them, so that the file has the same bytes
    whatever the batch size, the number of processes and the interruptions. It is laid out once in its final size;
    batches are written in place, before they enter the journal. That makes a kill at any moment harmless: what the
    journal does not know is done again, and gives the same images.

    Args:
        folder: Of the evaluation.
        examples: All of them, also those of other processes.
        about: Texts for the header: see ``about``.
        rank: Of this process; number 0 removes what an earlier evaluation left.
        begun: Whether the journal knows batches already (a resume): then their images must be there.

    Raises:
        UserError: If the images of an evaluation that goes on are missing or damaged, or there is no room.
    """

    def __init__(
        self, folder: Path, examples: Examples, about: Mapping[str, str], *, rank: int = 0, begun: bool = False
    ) -> None:
        self._examples = examples
        self._partial, self._final = folder / PARTIAL, folder / ADVERSARIAL
        shape = examples.shape
        self._row_size = 4 * int(np.prod(shape))
        self._front = _front(examples, shape, about)
        self._size = len(self._front) + len(examples) * self._row_size
        self._path = self._found() if begun else self._laid_out(rank)

    def keep(self, rows: Tensor, verdicts: Verdicts, *, clean: bool) -> None:
        """Write one batch to disk: after the clean verdict all images, after an attack those that it broke.

        Args:
            rows: (B,) positions in the examples.
            verdicts: Of these.
            clean: Whether no attack made them.

        Raises:
            UserError: If the disk is full.
        """
        broken = ~self._examples.right(rows, verdicts.prediction)
        chosen = torch.ones_like(broken) if clean else broken
        if not bool(chosen.any()):
            return
        images = verdicts.x_adv[chosen].float().contiguous().numpy()
        try:
            with self._path.open("r+b") as file:
                for row, image in zip(rows[chosen].tolist(), images, strict=True):
                    file.seek(len(self._front) + row * self._row_size)
                    file.write(image.data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise files.disk_mistake(self._path, error) from error

    def finish(self) -> Path:
        """Give the file its name. For one process, once all are done."""
        if self._path == self._partial:
            try:
                self._partial.replace(self._final)
            except OSError as error:
                raise files.disk_mistake(self._final, error) from error
            self._path = self._final
        return self._final

    def _found(self) -> Path:
        # The final one alone: the kill came between its renaming and the summary
        path = next((path for path in (self._partial, self._final) if path.exists()), None)
        if path is None:
            allowed = f"{PARTIAL}, with the images of the batches that are done"
            raise UserError(_SETTING, f"no {PARTIAL} in {self._partial.parent}", allowed, "no --resume to start anew")
        try:
            with path.open("rb") as file:
                whole = file.read(len(self._front)) == self._front and path.stat().st_size == self._size
        except OSError as error:
            raise files.disk_mistake(path, error) from error
        if not whole:
            allowed = "the file of the evaluation that is resumed, whole"
            raise UserError(str(path), "another or a damaged file", allowed, "no --resume to start anew")
        return path

    def _laid_out(self, rank: int) -> Path:
        """The file in its final size, all but the images written; what rows an old one holds will be overwritten.

        Every process may do so at any time: it never moves or clears what another has written already.
        """
        files.make_folder(self._partial.parent)
        try:
            if rank == 0:
                self._final.unlink(missing_ok=True)
            if not self._partial.exists() and shutil.disk_usage(self._partial.parent).free < self._size:
                # Said now, and not after hours: a file that is all hole takes no room yet
                raise OSError(errno.ENOSPC, "No space left on device")
            with os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
                file.truncate(self._size)
                file.write(self._front)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise files.disk_mistake(self._partial, error) from error
        return self._partial


def about(threat: Geometry, protocol: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the header: threat, suite, mode, seed, the hashes of weights and data, the version."""
    mode = protocol["mode"]
    return {
        "threat": describe_threat(threat),
        "suite": protocol["suite"],
        "mode": mode if isinstance(mode, str) else json.dumps(mode),
        "seed": str(protocol["seed"]),
        "weights_hash": protocol["weights_hash"],
        "data_hash": protocol["data_hash"],
        "inure": protocol["versions"]["inure"],
    }


def was_storing(folder: Path) -> bool:
    """Whether an evaluation that stores its images was begun here and did not come to its end."""
    return (folder / PARTIAL).exists()


def discard(folder: Path) -> None:
    """Remove what an evaluation that stored its images left here, for a new one that does not."""
    for name in (PARTIAL, ADVERSARIAL):
        (folder / name).unlink(missing_ok=True)


def refuse_unless_stored(folder: Path) -> None:
    """For a finished evaluation, which cannot store any more.

    Raises:
        UserError: If it did not store its images.
    """
    if not (folder / ADVERSARIAL).exists():
        given = f"{folder}, finished without them"
        raise UserError(_SETTING, given, "an evaluation that stored its images", "no --resume to start anew")


def _front(examples: Examples, shape: tuple[int, ...], about: Mapping[str, str]) -> bytes:
    """All of the file but the images: the length of the header, the header (JSON), index and labels."""
    count = len(examples)
    images = 4 * count * int(np.prod(shape))
    header = {
        "__metadata__": dict(about),
        "index": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
        "label": {"dtype": "I64", "shape": [count], "data_offsets": [8 * count, 16 * count]},
        "x_adv": {"dtype": "F32", "shape": [count, *shape], "data_offsets": [16 * count, 16 * count + images]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at multiples of their size
    columns = [column.numpy().astype("<i8").tobytes() for column in (examples.index, examples.labels)]
    return b"".join([len(text).to_bytes(8, "little"), text, *columns])
