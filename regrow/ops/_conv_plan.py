"""Sizes of a convolution, and the plan by which the vector kernels go through it.

Everything has three spatial dimensions (depth, height, width); missing ones have size 1. A plan
describes one product over a *source* (the input, or for the input gradient the output gradient)
into a *target*. Samples are taken in groups of ``samples``; a block of lines of a group is copied,
with its padding, into a scratch array ``(source channels, phases, q_d, q_h, q_w, samples)``. There
every connection is a constant shift: target pixel ``m`` reads place ``m + offset``, so that
neighbouring pixels read neighbouring memory.

* Forward, stride s: input pixel u lies at u + padding; its phase is that modulo s, its place that
  divided by s, so pixels one output apart are neighbours. Tap t reads phase t * dilation mod s at
  m + t * dilation // s.
* Input gradient: pixel i of the input is phase (i + padding) mod s of the target, place
  m = (i + padding) // s. It gets the taps with t * dilation = phase mod s, from output pixel
  m - t * dilation // s.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from regrow.errors import SparsityError
from regrow.ops._layout import LARGEST

Triple = tuple[int, int, int]


class Sizes(NamedTuple):
    """One convolution; spatial entries are (depth, height, width)."""

    n_samples: int
    n_in: int
    n_out: int
    source: Triple
    kernel: Triple
    stride: Triple
    padding: Triple
    dilation: Triple
    groups: int

    @property
    def output(self) -> Triple:
        """Spatial size of the output."""
        d, h, w = (
            output_size(*one)
            for one in zip(
                self.source, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return d, h, w

    @property
    def n_taps(self) -> int:
        """Positions in a kernel."""
        return math.prod(self.kernel)


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Pixels along one dimension of the output; below 1 where the kernel does not fit."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


class Plan(NamedTuple):
    """What the kernels need to know, in integers; dimensions d, h, w."""

    n_samples: int
    samples: int  # of a group: the lanes of a vector, or 1
    lanes: int
    s_channels: int
    s_d: int
    s_h: int
    s_w: int
    lead_d: int  # source pixel u lies at u + lead
    lead_h: int
    lead_w: int
    step_d: int  # ... divided by step, the rest being its phase
    step_h: int
    step_w: int
    phases_h: int  # phases that some tap reads
    phases_w: int
    q_d: int  # places kept
    q_h: int
    q_w: int
    channel: int  # scratch elements from one source channel to the next
    t_channels: int
    t_d: int
    t_h: int
    t_w: int
    out_d: int  # target pixel i is phase (i + pad) % out, at m = (i + pad) // out - low
    out_h: int
    out_w: int
    pad_d: int
    pad_h: int
    pad_w: int
    low_d: int
    low_h: int
    low_w: int
    n_d: int  # values of m
    n_h: int
    n_w: int
    block_d: int  # values of m copied at a time
    block_h: int
    strip: int  # lines summed at a time
    line: int  # elements of a line of sums
    n_blocks: int  # blocks of source channels


class Axis(NamedTuple):
    """One dimension of a plan."""

    size: int
    lead: int
    step: int
    phases: tuple[int, ...]  # phase -> number among those that are read, or -1
    reach: int  # largest offset
    target: int
    out: int
    pad: int
    low: int
    n: int
    taps: tuple[tuple[int, int, int], ...]  # tap -> (source phase, offset, target phase)


def forward_axis(
    size: int, kernel: int, stride: int, padding: int, dilation: int, output: int
) -> Axis:
    """The input as source, the output as target."""
    shifts = [t * dilation for t in range(kernel)]
    # (One output pixel needs no neighbours, and a dilation that the stride divides has one phase.)
    read = sorted({shift % stride for shift in shifts})
    phases = tuple(read.index(f) if f in read else -1 for f in range(stride))
    taps = tuple((phases[shift % stride], shift // stride, 0) for shift in shifts)
    reach = max(tap[1] for tap in taps)
    return Axis(size, padding, stride, phases, reach, output, 1, 0, 0, output, taps)


def backward_axis(
    size: int, kernel: int, stride: int, padding: int, dilation: int, output: int
) -> Axis:
    """The output gradient as source, the input gradient as target."""
    shifts = [t * dilation for t in range(kernel)]
    reach = max(shifts) // stride
    taps = tuple((0, reach - shift // stride, shift % stride) for shift in shifts)
    low = padding // stride
    n = (padding + size - 1) // stride - low + 1
    return Axis(output, reach - low, 1, (0,), reach, size, stride, padding, low, n, taps)


def axes(sizes: Sizes, *, backward: bool) -> tuple[Axis, Axis, Axis]:
    """The dimensions of a plan."""
    make = backward_axis if backward else forward_axis
    per_axis = zip(*sizes[3:8], sizes.output, strict=True)
    d, h, w = (make(*one) for one in per_axis)
    return d, h, w


SCRATCH_BYTES = 8 * 2**20
"""Of a copied block of lines: it is to stay in the last level of cache."""
NEAR_BYTES = 128 * 1024
"""Of what one tile reads at a time: it is to stay in the second level of cache."""
STRIP_PIXELS = 48
"""Of the target, written at a time: at least three whole cache lines of each sample."""


def make_plan(
    sizes: Sizes, *, backward: bool, samples: int, lanes: int, n_sums: int, itemsize: int
) -> tuple[Plan, tuple[Axis, Axis, Axis]]:
    """The plan of one product, and its dimensions."""
    found = d, h, w = axes(sizes, backward=backward)
    s_channels, t_channels = sizes.n_in, sizes.n_out
    if backward:
        s_channels, t_channels = t_channels, s_channels
    phases_d, phases_h, phases_w = (max(axis.phases) + 1 for axis in found)
    q_w = w.n + w.reach
    line_bytes = s_channels * phases_d * phases_h * phases_w * q_w * samples * itemsize
    n_lines = max(1, SCRATCH_BYTES // max(1, line_bytes))
    if d.n == 1:
        block_d, block_h = 1, min(h.n, max(1, n_lines - h.reach))
    else:
        depth = h.n + h.reach
        block_d, block_h = min(d.n, max(1, n_lines // depth - d.reach)), h.n
    q_d, q_h = block_d + d.reach, block_h + h.reach
    channel = _spread(phases_d * phases_h * phases_w * q_d * q_h * q_w * samples, lanes)
    if s_channels * channel > LARGEST:
        raise SparsityError(
            f"one line of {s_channels} channels and {samples} samples, {s_channels * channel} "
            f'numbers with its padding, is more than {LARGEST}: use backend="reference"'
        )
    n_vectors = -(-w.n * samples // lanes)
    strip = max(
        -(-STRIP_PIXELS // (w.target * h.out)), -(-n_sums // n_vectors) if n_vectors < n_sums else 1
    )
    strip = min(strip, block_h)
    tall, wide = min(strip, -(-n_sums // n_vectors)), min(w.n, n_sums * lanes // samples)
    near = phases_d * phases_h * phases_w * (1 + d.reach) * (tall + h.reach)
    near *= (wide + w.reach) * samples * itemsize
    in_group = s_channels // sizes.groups
    per_block = min(in_group, max(1, NEAR_BYTES // near))
    line = w.target * samples if samples == lanes else -(-w.target // lanes) * lanes
    plan = Plan(
        sizes.n_samples, samples, lanes,
        s_channels, d.size, h.size, w.size, d.lead, h.lead, w.lead, d.step, h.step, w.step,
        phases_h, phases_w, q_d, q_h, q_w, channel,
        t_channels, d.target, h.target, w.target, d.out, h.out, w.out, d.pad, h.pad, w.pad,
        d.low, h.low, w.low, d.n, h.n, w.n, block_d, block_h, strip, line,
        -(-in_group // per_block),
    )  # fmt: skip
    return plan, found


def _spread(channel: int, lanes: int) -> int:
    """At least so many elements, so that the channels do not share few places of the caches."""
    n_lines = -(-channel // lanes)
    if n_lines > 128:
        n_lines += (17 - n_lines) % 32
    return n_lines * lanes


def tap_tables(plan: Plan, found: tuple[Axis, Axis, Axis]) -> tuple[list[int], list[int]]:
    """For every tap in row-major order: its offset in the scratch, and its phase of the target."""
    offsets, targets = [], []
    for p_d, at_d, f_d in found[0].taps:
        for p_h, at_h, f_h in found[1].taps:
            for p_w, at_w, f_w in found[2].taps:
                place = (p_d * plan.phases_h + p_h) * plan.phases_w + p_w
                place = ((place * plan.q_d + at_d) * plan.q_h + at_h) * plan.q_w + at_w
                offsets.append(place * plan.samples)
                targets.append((f_d * plan.out_h + f_h) * plan.out_w + f_w)
    return offsets, targets


def phase_table(found: tuple[Axis, Axis, Axis]) -> list[int]:
    """Source phase -> its number among those that are kept, or -1; all three dimensions."""
    return [number for axis in found for number in axis.phases]


def output_gradient_plan(plan: Plan, sizes: Sizes) -> Plan:
    """How the value gradient copies the output gradient beside an input copied by ``plan``."""
    d, h, w = sizes.output
    channel = _spread(plan.block_d * plan.block_h * w * plan.samples, plan.lanes)
    return plan._replace(
        s_channels=sizes.n_out, s_d=d, s_h=h, s_w=w, lead_d=0, lead_h=0, lead_w=0,
        step_d=1, step_h=1, step_w=1, phases_h=1, phases_w=1,
        q_d=plan.block_d, q_h=plan.block_h, q_w=w, channel=channel,
    )  # fmt: skip
