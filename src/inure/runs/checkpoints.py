"""Training state on disk: the newest two states, each with its hash, so that one torn file never costs a run.

A state may be called sound: of those the newest is kept too, for who wants to return to it.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

from safetensors.torch import save

from ..libraries import Tensor, nn, torch
from ..machine import files
from ..settings.errors import UserError

_KEEP = 2


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``index.json`` names the states; it is written after them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = folder / "index.json"
        self._refused: set[str] = set()

    def save(self, step: int, state: dict[str, Any], *, sound: bool = False) -> None:
        """Write one state; older ones than the newest two and the newest sound one are removed afterwards, and so are
        those of later steps, which are there after a return.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        # A step may be saved twice (in the epoch and at its end): what the index names is never overwritten
        name = f"step-{step:09d}-{digest[:8]}.pt"
        files.write_bytes(self.folder / name, content)
        entry = {"file": name, "step": step, "sha256": digest, "sound": sound}
        old = [e for e in self._entries() if e["file"] not in {name, *self._refused} and e["step"] <= step]
        entries = [entry, *old]
        entries = entries[:_KEEP] + ([] if _sound(entries[:_KEEP]) else _sound(entries)[:1])
        files.write_json(self._index, entries)
        kept = {e["file"] for e in entries}
        for path in self.folder.glob("step-*.pt"):
            if path.name not in kept:
                path.unlink()

    def load(self, recipe_hash: str, *, sound: bool = False) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest good state, or None if there never was one; and a line for each state that was refused.

        With ``sound``: of those that were called sound.

        Raises:
            UserError: If states were written but none is good.
        """
        entries, refused = _sound(self._entries()) if sound else self._entries(), []
        for entry in entries:
            state, reason = self._read(entry, recipe_hash)
            if state is not None:
                return state, refused
            self._refused.add(entry["file"])
            refused.append(f"checkpoint {entry['file']} refused: {reason}")
        if entries:
            given = f"{len(refused)} and none is good: {refused[0]}"
            raise UserError(str(self.folder), given, "one good checkpoint", "another --out, from step 0")
        return None, refused

    def newest(self) -> str:
        """The path of the newest state, for messages."""
        entries = self._entries()
        return str(self.folder / entries[0]["file"]) if entries else "none"

    def _read(self, entry: dict[str, Any], recipe_hash: str) -> tuple[dict[str, Any] | None, str]:
        path = self.folder / entry["file"]
        try:
            content = path.read_bytes()
        except OSError as error:
            return None, error.strerror or "unreadable"
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return None, "truncated or altered (its hash does not match index.json)"
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):
            return None, "not a state that training wrote"
        if not isinstance(state, dict) or state.get("recipe_hash") != recipe_hash:
            return None, "written by a run with another recipe"
        return state, ""

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads(self._index.read_bytes()) if self._index.exists() else []
            return [
                {**{name: entry[name] for name in ("file", "step", "sha256")}, "sound": entry.get("sound", False)}
                for entry in entries
            ]
        except (ValueError, TypeError, KeyError):
            raise UserError(str(self._index), "damaged JSON", "the file that training wrote", "another --out") from None


def _sound(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["sound"]]


def write_weights(path: Path, module: nn.Module) -> None:
    """A safetensors file of a net's state, written atomically."""
    files.write_bytes(path, tensor_bytes(module.state_dict()))


def tensor_bytes(state: dict[str, Tensor], **metadata: str) -> bytes:
    """A state in the safetensors format."""
    return save({name: t.detach().cpu().contiguous().clone() for name, t in state.items()}, metadata or None)
