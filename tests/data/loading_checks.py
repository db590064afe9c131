"""What the tests of loading share."""

import numpy as np
import pytest
import torch

from inure.data import load
from inure.settings.errors import UserError


def refused(match, spec, split="train", **options):
    """Loading is a mistake of the user in one line that says ``match``; returns the line."""
    with pytest.raises(UserError, match=match) as caught:
        load(str(spec), split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_tensor(arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def everything(images):
    return images.batch(torch.arange(len(images)))
