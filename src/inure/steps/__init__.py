"""Step functions of methods whose order of steps is another than ``train_step``'s; a method names its own ``step``."""

from .fast_adv_prop import fast_adv_prop_step
from .free import free_step
from .joints import Joints
from .update import clip_and_update

__all__ = ["Joints", "clip_and_update", "fast_adv_prop_step", "free_step"]
