"""What a training set-up breaks, found by running its own step three times and taking it back."""

from regrow.diagnostics._diagnosis import Diagnosis, Finding
from regrow.diagnostics._doctor import doctor

__all__ = ["Diagnosis", "Finding", "doctor"]
