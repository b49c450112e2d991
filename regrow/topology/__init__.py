"""Which connections exist: structures, topologies, exact selection, derived randomness."""

from regrow.topology._initial import random_topology
from regrow.topology._pack import pack_bits, unpack_bits
from regrow.topology._random import derived_generator
from regrow.topology._select import select_top, select_top_reference
from regrow.topology._structure import Structure, Unstructured
from regrow.topology._topology import Topology, TopologyDelta, apply

__all__ = [
    "Structure",
    "Topology",
    "TopologyDelta",
    "Unstructured",
    "apply",
    "derived_generator",
    "pack_bits",
    "random_topology",
    "select_top",
    "select_top_reference",
    "unpack_bits",
]
