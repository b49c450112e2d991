"""The main job: does dynamic sparse training beat dense training on corrupted images?

`corrupt` makes the nineteen common corruptions, `compare` runs the whole study.
"""

from regrow.robustness._answer import answer
from regrow.robustness._compare import RobustnessStudy, compare
from regrow.robustness._presentation import terminal_text
from regrow.robustness._report import write_report
from regrow.robustness._results import Results, read_results
from regrow.robustness._sheet import corruption_sheet
from regrow.robustness._summary import ArmSummary, Comparison, Summary, summarise
from regrow.robustness.corruptions import (
    ALL,
    COMMON,
    DETERMINISTIC,
    EXTRA,
    available,
    corrupt,
    corrupt_seeded,
)

__all__ = [
    "ALL",
    "COMMON",
    "DETERMINISTIC",
    "EXTRA",
    "ArmSummary",
    "Comparison",
    "Results",
    "RobustnessStudy",
    "Summary",
    "answer",
    "available",
    "compare",
    "corrupt",
    "corrupt_seeded",
    "corruption_sheet",
    "read_results",
    "summarise",
    "terminal_text",
    "write_report",
]
