"""A few examples with their adversarial images, kept for people to look at."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from ..libraries import Tensor, torch
from ..machine import files
from ..types import Images
from .results import EXAMPLES
from .verdicts import Verdicts


class Pictures:
    """Some examples: clean image and the image of the last attack run on it (the one that broke it).

    Args:
        folder: None keeps nothing on disk.
        index: (n,) which examples.
        resume: Go on from the file that is there.
    """

    def __init__(self, folder: Path | None, index: Tensor, *, resume: bool) -> None:
        self._path = folder / EXAMPLES if folder else None
        self._wanted = set(index.tolist())
        self._kept: dict[int, dict[str, Tensor]] = {}
        if resume and self._path is not None and self._path.exists():
            columns = load_file(self._path)
            for row, number in enumerate(columns["index"].tolist()):
                if number in self._wanted:
                    self._kept[number] = {name: column[row] for name, column in columns.items()}
        elif self._path is not None:
            self._path.unlink(missing_ok=True)

    def keep(self, index: Tensor, labels: Tensor, verdicts: Verdicts, *, clean: bool) -> None:
        """Take what is wanted from one batch."""
        touched = False
        for row, number in enumerate(index.tolist()):
            # Of an example that another process judged clean, before a resume, there is no clean image
            if number in self._wanted and (clean or number in self._kept):
                self._kept[number] = self._entry(number, row, index, labels, verdicts, clean)
                touched = True
        if touched and self._path is not None:
            files.write_bytes(self._path, save(self.columns()))

    def columns(self) -> dict[str, Tensor]:
        """x, x_adv (n, C, H, W); index, label, clean_prediction, adversarial_prediction (n,)."""
        entries = [self._kept[number] for number in sorted(self._kept)]
        return {name: torch.stack([e[name] for e in entries]).contiguous() for name in entries[0]} if entries else {}

    def _entry(
        self, number: int, row: int, index: Tensor, labels: Tensor, verdicts: Verdicts, clean: bool
    ) -> dict[str, Tensor]:
        x_adv: Images = verdicts.x_adv[row].clone()
        before = {"x": x_adv, "clean_prediction": verdicts.prediction[row].clone()} if clean else self._kept[number]
        return {
            "x": before["x"],
            "x_adv": x_adv,
            "index": index[row].clone(),
            "label": labels[row].clone(),
            "clean_prediction": before["clean_prediction"],
            "adversarial_prediction": verdicts.prediction[row].clone(),
        }
