"""What every comparison of training methods needs, whatever it measures.

A grid of cells that can be killed and resumed, one training loop, paired statistics, tables,
pictures and report pages.
"""

from regrow.study._atomic import (
    read_json,
    write_array,
    write_arrays,
    write_bytes,
    write_json,
    write_text,
)
from regrow.study._checkpoint import load_state, save_state
from regrow.study._environment import environment
from regrow.study._evaluation import accuracy
from regrow.study._figures import COLOURS, Panel, Series, heat_maps, image_grid, line_panels
from regrow.study._folder import StudyFolder, open_study
from regrow.study._grid import Cell, grid
from regrow.study._html import Html, definitions, details, figure, page, table, text
from regrow.study._images import Images, crop_and_flip
from regrow.study._methods import (
    ALLOCATIONS,
    DENSE,
    DYNAMIC,
    METHODS,
    SCHEDULED,
    WEIGHT_STEPS,
    attach_method,
)
from regrow.study._plan import plan
from regrow.study._progress import Progress, SilentProgress, TerminalProgress, counting, duration
from regrow.study._recipe import Recipe
from regrow.study._schedule import (
    DEFAULT_REWIRINGS,
    LEAST_REWIRINGS,
    RewiringSchedule,
    rewiring_schedule,
)
from regrow.study._seeding import seeded
from regrow.study._statistics import Estimate, mean_interval, paired_difference
from regrow.study._tables import read_csv, write_csv
from regrow.study._threads import using_threads
from regrow.study._training import SparseState, Training, explored, train_classifier

__all__ = [
    "ALLOCATIONS",
    "COLOURS",
    "DEFAULT_REWIRINGS",
    "DENSE",
    "DYNAMIC",
    "LEAST_REWIRINGS",
    "METHODS",
    "SCHEDULED",
    "WEIGHT_STEPS",
    "Cell",
    "Estimate",
    "Html",
    "Images",
    "Panel",
    "Progress",
    "Recipe",
    "RewiringSchedule",
    "Series",
    "SilentProgress",
    "SparseState",
    "StudyFolder",
    "TerminalProgress",
    "Training",
    "accuracy",
    "attach_method",
    "counting",
    "crop_and_flip",
    "definitions",
    "details",
    "duration",
    "environment",
    "explored",
    "figure",
    "grid",
    "heat_maps",
    "image_grid",
    "line_panels",
    "load_state",
    "mean_interval",
    "open_study",
    "page",
    "paired_difference",
    "plan",
    "read_csv",
    "read_json",
    "rewiring_schedule",
    "save_state",
    "seeded",
    "table",
    "text",
    "train_classifier",
    "using_threads",
    "write_array",
    "write_arrays",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_text",
]
