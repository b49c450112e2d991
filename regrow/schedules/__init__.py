"""Functions of the optimizer step: values, and when a rewiring is due."""

from regrow.schedules._value import constant, cosine, cubic, linear, piecewise
from regrow.schedules._window import UpdateWindow

__all__ = ["UpdateWindow", "constant", "cosine", "cubic", "linear", "piecewise"]
