"""Images: where they come from, how they are split, augmented and handed out in batches."""

from .augment import Augment, soft_labels
from .image_set import ImageSet
from .loader import Loader, to_batch
from .rand_augment import RandAugment
from .readout import Readout
from .settings import Data
from .sources import load, load_labels
from .split import stratified_split

__all__ = [
    "Augment",
    "Data",
    "ImageSet",
    "Loader",
    "Readout",
    "RandAugment",
    "load",
    "load_labels",
    "soft_labels",
    "stratified_split",
    "to_batch",
]
