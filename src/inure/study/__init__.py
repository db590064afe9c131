"""Studies: grids of recipes, named axes and seeds; resumable, shared by processes, one table and one figure."""

from .results import mean_and_deviation
from .run import run_study
from .study import Study, load_study

__all__ = ["Study", "load_study", "mean_and_deviation", "run_study"]
