"""Published methods, each a composition of rules with the paper's defaults."""

from regrow.methods._combine import MethodPart, combine, part
from regrow.methods._gradual import gradual
from regrow.methods._granet import granet
from regrow.methods._mest import mest
from regrow.methods._rigl import rigl
from regrow.methods._set import set_training
from regrow.methods._static import static

__all__ = [
    "MethodPart",
    "combine",
    "gradual",
    "granet",
    "mest",
    "part",
    "rigl",
    "set_training",
    "static",
]
