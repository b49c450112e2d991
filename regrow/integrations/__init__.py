"""Adapters between regrow and tools that others make; none of them is imported here."""

from regrow.integrations._log_metrics import log_metrics

__all__ = ["log_metrics"]
