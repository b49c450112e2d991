"""Published methods, each a composition of rules with the paper's defaults."""

from regrow.methods._combine import MethodPart, combine, part
from regrow.methods._gradual import gradual
from regrow.methods._granet import granet
from regrow.methods._mest import mest
from regrow.methods._rigl import rigl
from regrow.methods._set import set_training
from regrow.methods._static import static
from regrow.methods._structures import Takes, structures_of

__all__ = [
    "MethodPart",
    "Takes",
    "combine",
    "gradual",
    "granet",
    "mest",
    "part",
    "rigl",
    "set_training",
    "static",
    "structures_of",
]
