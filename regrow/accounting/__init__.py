"""What sparse models cost, and what trainings did.

FLOPs count a multiplication and an addition as two ("mac2", equal to torch's ``FlopCounterMode``)
unless "micronet" is asked for, which adds a bias and a ReLU to every output as RigL's tables do.
"""

from regrow.accounting._attribution import ReadCost, attribute
from regrow.accounting._count import CONVENTIONS, CostReport, count
from regrow.accounting._metrics import metrics_of
from regrow.accounting._plan import Plan, PlanRow, make_plan
from regrow.accounting._report import LayerReport, Report
from regrow.accounting._table import in_units, text_table

__all__ = [
    "CONVENTIONS",
    "CostReport",
    "LayerReport",
    "Plan",
    "PlanRow",
    "ReadCost",
    "Report",
    "attribute",
    "count",
    "in_units",
    "make_plan",
    "metrics_of",
    "text_table",
]
