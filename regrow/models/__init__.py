"""Image classifiers for studies, by name, and dense ones with a given number of parameters."""

from regrow.models._constructors import NAMES, build, constructor
from regrow.models._match import match_parameters
from regrow.models._mlp import mlp
from regrow.models._resnet import resnet18, resnet34
from regrow.models._small_cnn import small_cnn
from regrow.models._vgg import vgg16_bn

__all__ = [
    "NAMES",
    "build",
    "constructor",
    "match_parameters",
    "mlp",
    "resnet18",
    "resnet34",
    "small_cnn",
    "vgg16_bn",
]
