"""Which connections exist: structures, topologies, exact selection, derived randomness."""

from regrow.topology._best import Best
from regrow.topology._delta import TopologyDelta, apply
from regrow.topology._groups import unit_bounds, unit_ranges
from regrow.topology._initial import random_topology
from regrow.topology._lookup import (
    are_all,
    locate,
    positions_at,
    positions_between,
    units_at,
)
from regrow.topology._pack import pack_bits, unpack_bits
from regrow.topology._random import derived_generator
from regrow.topology._rows import are_among
from regrow.topology._sample import sample_places
from regrow.topology._select import select_top, select_top_reference
from regrow.topology._structure import (
    Structure,
    check_structure,
    spread_over_groups,
    structure_tag,
    unit_size,
)
from regrow.topology._topology import Topology
from regrow.topology.structures import (
    NM,
    Block,
    ChannelGroups,
    ConstantFanIn,
    InChannel,
    Kernel,
    OutChannel,
    Transposed,
    Unstructured,
)

__all__ = [
    "NM",
    "Best",
    "Block",
    "ChannelGroups",
    "ConstantFanIn",
    "InChannel",
    "Kernel",
    "OutChannel",
    "Structure",
    "Topology",
    "TopologyDelta",
    "Transposed",
    "Unstructured",
    "apply",
    "are_all",
    "are_among",
    "check_structure",
    "derived_generator",
    "locate",
    "pack_bits",
    "positions_at",
    "positions_between",
    "random_topology",
    "sample_places",
    "select_top",
    "select_top_reference",
    "spread_over_groups",
    "structure_tag",
    "unit_bounds",
    "unit_ranges",
    "unit_size",
    "units_at",
    "unpack_bits",
]
