"""Samples to vectors and back: how blocks of lines get into the scratch of sparse convolutions.

See ``_conv_plan`` for where pixels lie there. Arrays are flat and of one type, float32 or float64.
Imports numba: only ``_conv_kernels`` imports this module, on first use.
"""

# ruff: noqa: ANN001, ANN202 (numba is untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np

from regrow._optional import require
from regrow.ops._conv_vectors import copy, copy_vector
from regrow.ops._vectors import transpose_square

numba = require("numba", extra="sparse")
kernel = numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
STAGE = 256
"""Pixels transposed at a time."""


@kernel
def _fetch(images, at, stride, n_pixels, near, n):
    """Pixels of some samples, sample by sample, into ``near``.

    The samples are often a power of two apart, so that lines of all of them would fall into the
    same few places of the caches, and be gone before they are wanted.
    """
    pitch = near.size // n
    for i in range(n):
        copy(images, at + i * stride, near, i * pitch, n_pixels)


@kernel
def _from_images(images, at, stride, n_pixels, stage, to, n, lanes):
    """stage[pixel, sample] = images[at + sample * stride + pixel]; zero past ``n`` samples."""
    done = 0
    if n == lanes and n_pixels >= lanes:
        while done < n_pixels:
            # (The last square overlaps the one before.)
            done = min(done, n_pixels - lanes)
            transpose_square(images, at + done, stride, stage, to + done * lanes, lanes)
            done += lanes
        return
    for i in range(lanes):
        for j in range(n_pixels):
            value = images[at + i * stride + j] if i < n else images.dtype.type(0)
            stage[to + j * lanes + i] = value


@kernel
def _to_images(stage, at, n_pixels, images, to, stride, n, lanes):
    """images[to + sample * stride + pixel] = stage[pixel, sample]."""
    done = 0
    if n == lanes and n_pixels >= lanes:
        while done < n_pixels:
            done = min(done, n_pixels - lanes)
            transpose_square(stage, at + done * lanes, lanes, images, to + done, stride)
            done += lanes
        return
    for i in range(n):
        for j in range(n_pixels):
            images[to + i * stride + j] = stage[at + j * lanes + i]


@kernel
def _place_rows(plan, phases, stage, at, scratch, base, u_d, u_h, n_rows, first_d, first_h):
    """Put rows of pixels where the scratch has them; those outside the block are left out."""
    samples = plan.samples
    for row in range(u_h, u_h + n_rows):
        p_d, p_h = u_d + plan.lead_d, row + plan.lead_h
        q_d, q_h = p_d // plan.step_d - first_d, p_h // plan.step_h - first_h
        f_d, f_h = phases[p_d % plan.step_d], phases[plan.step_d + p_h % plan.step_h]
        if not (0 <= q_d < plan.q_d and 0 <= q_h < plan.q_h) or f_d < 0 or f_h < 0:
            continue
        from_row = at + (row - u_h) * plan.s_w * samples
        plane = (f_d * plan.phases_h + f_h) * plan.phases_w
        if plan.step_w == 1:
            low = max(0, -plan.lead_w)
            high = min(plan.s_w, plan.q_w - plan.lead_w)
            to = ((plane * plan.q_d + q_d) * plan.q_h + q_h) * plan.q_w + low + plan.lead_w
            if high > low:
                copy(
                    stage, from_row + low * samples, scratch, base + to * samples,
                    (high - low) * samples,
                )  # fmt: skip
            continue
        q_w, rest = plan.lead_w // plan.step_w, plan.lead_w % plan.step_w
        for u in range(plan.s_w):
            f_w = phases[plan.step_d + plan.step_h + rest]
            if q_w < plan.q_w and f_w >= 0:
                to = (((plane + f_w) * plan.q_d + q_d) * plan.q_h + q_h) * plan.q_w + q_w
                if samples == 1:
                    scratch[base + to] = stage[from_row + u]
                else:
                    copy_vector(stage, from_row + u * samples, scratch, base + to * samples)
            rest += 1
            if rest == plan.step_w:
                rest = 0
                q_w += 1


@kernel
def pack(
    plan, phases, source, scratch, group, first_d, first_h, clear, c_first, c_last, stage, near
):
    """Copy a block of lines of some channels of one group of samples, with its padding.

    ``stage`` and ``near`` hold ``STAGE`` pixels, or a whole row, and some more.
    """
    samples, lanes = plan.samples, plan.lanes
    plane = plan.s_h * plan.s_w
    image = plan.s_d * plane
    stride = plan.s_channels * image
    start = group * samples * stride
    n = min(samples, plan.n_samples - group * samples)
    if clear:
        scratch[c_first * plan.channel : c_last * plan.channel] = 0
    # Source lines that the block holds.
    d_low = max(0, first_d * plan.step_d - plan.lead_d)
    d_high = min(plan.s_d, (first_d + plan.q_d) * plan.step_d - plan.lead_d)
    h_low = max(0, first_h * plan.step_h - plan.lead_h)
    h_high = min(plan.s_h, (first_h + plan.q_h) * plan.step_h - plan.lead_h)
    if h_high <= h_low or d_high <= d_low:
        return
    if samples == 1:
        for c in range(c_first, c_last):
            for d in range(d_low, d_high):
                at = start + c * image + d * plane + h_low * plan.s_w
                _place_rows(
                    plan, phases, source, at, scratch, c * plan.channel, d, h_low, h_high - h_low,
                    first_d, first_h,
                )  # fmt: skip
        return
    pitch = near.size // n
    # (numba compiles a function once more for each constant that it is given.)
    zero = np.int64(0)
    if image <= STAGE and plan.s_d == 1 and h_high - h_low == plan.s_h:
        # Small planes: several channels at a time, for squares that are whole.
        at_once = STAGE // image
        for c in range(c_first, c_last, at_once):
            m = min(at_once, c_last - c)
            _fetch(source, start + c * image, stride, m * image, near, n)
            _from_images(near, zero, pitch, m * image, stage, zero, n, lanes)
            for i in range(m):
                base = (c + i) * plan.channel
                _place_rows(
                    plan, phases, stage, i * image * samples, scratch, base, zero, zero, plan.s_h,
                    first_d, first_h,
                )  # fmt: skip
        return
    # Lines of which every one is read; with strides some are not.
    at_once = max(1, STAGE // plan.s_w) if plan.phases_h == plan.step_h else 1
    direct = plan.step_w == 1 and plan.s_w % lanes == 0 and plan.step_h == 1 and plan.step_d == 1
    direct = direct and plan.lead_w >= 0 and plan.q_w >= plan.s_w + plan.lead_w
    for c in range(c_first, c_last):
        for d in range(d_low, d_high):
            for h in range(h_low, h_high, at_once):
                if at_once == 1 and phases[plan.step_d + (h + plan.lead_h) % plan.step_h] < 0:
                    continue
                n_rows = min(at_once, h_high - h)
                at = start + c * image + d * plane + h * plan.s_w
                base = c * plan.channel
                _fetch(source, at, stride, n_rows * plan.s_w, near, n)
                if direct:
                    q_d, q_h = d + plan.lead_d - first_d, h + plan.lead_h - first_h
                    for row in range(n_rows):
                        to = (q_d * plan.q_h + q_h + row) * plan.q_w + plan.lead_w
                        _from_images(
                            near, row * plan.s_w, pitch, plan.s_w, scratch, base + to * lanes, n,
                            lanes,
                        )  # fmt: skip
                    continue
                _from_images(near, zero, pitch, n_rows * plan.s_w, stage, zero, n, lanes)
                _place_rows(
                    plan, phases, stage, zero, scratch, base, d, h, n_rows, first_d, first_h
                )


@kernel
def write_strip(plan, sums, target, group, m_d, m_h, m_end, r_first, r_last):
    """Put the sums of target lines m_h to m_end at depth m_d where the target has them."""
    samples, lanes = plan.samples, plan.lanes
    plane = plan.t_h * plan.t_w
    image = plan.t_d * plane
    stride = plan.t_channels * image
    start = group * samples * stride
    n = min(samples, plan.n_samples - group * samples)
    channel = plan.out_d * plan.strip * plan.out_h * plan.line
    i_first = max(0, plan.out_h * (m_h + plan.low_h) - plan.pad_h)
    i_last = min(plan.t_h, plan.out_h * (m_end + plan.low_h) - plan.pad_h)
    if samples > 1 and channel == image * samples and i_last - i_first == plan.t_h:
        _to_images(
            sums, r_first * channel, (r_last - r_first) * image, target, start + r_first * image,
            stride, n, lanes,
        )  # fmt: skip
        return
    for c in range(r_first, r_last):
        for f_d in range(plan.out_d):
            i_d = plan.out_d * (m_d + plan.low_d) + f_d - plan.pad_d
            if not 0 <= i_d < plan.t_d:
                continue
            at = c * channel + f_d * plan.strip * plan.out_h * plan.line
            to = start + c * image + i_d * plane + i_first * plan.t_w
            if samples > 1:
                n_pixels = (i_last - i_first) * plan.t_w
                _to_images(sums, at, n_pixels, target, to, stride, n, lanes)
                continue
            for i in range(i_last - i_first):
                copy(sums, at + i * plan.line, target, to + i * plan.t_w, plan.t_w)
