"""Structures: pairs of a unit and a group, one file an idea."""

from regrow.topology.structures._block import Block
from regrow.topology.structures._channel_groups import ChannelGroups
from regrow.topology.structures._channels import InChannel, OutChannel
from regrow.topology.structures._constant_fan_in import ConstantFanIn
from regrow.topology.structures._kernel import Kernel
from regrow.topology.structures._nm import NM
from regrow.topology.structures._transposed import Transposed
from regrow.topology.structures._unstructured import Unstructured

__all__ = [
    "NM",
    "Block",
    "ChannelGroups",
    "ConstantFanIn",
    "InChannel",
    "Kernel",
    "OutChannel",
    "Transposed",
    "Unstructured",
]
