"""Damaged files for the fuzz tests: bytes cut, flipped and inserted, and headers that lie."""

import io
import struct
import zipfile

import numpy as np
from hypothesis import strategies as st

damages = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.floats(0, 1)),
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("head"), st.integers(0, 300), st.integers(0, 7)),
        st.tuples(st.just("zero"), st.floats(0, 1), st.integers(1, 64)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("swap"), st.floats(0, 1), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=3,
)
"""What happens to the bytes of a file: half of the flips hit its head, where the lies hurt."""


def damaged(content, changes):
    """The bytes after all of it happened."""
    content = bytearray(content)
    for how, where, *more in changes:
        at = where if how == "head" else int(where * max(len(content) - 1, 0))
        if how == "cut":
            del content[at:]
        elif how in ("flip", "head") and at < len(content):
            content[at] ^= 1 << more[0]
        elif how == "zero":
            content[at : at + more[0]] = bytes(min(more[0], len(content) - at))
        elif how == "insert":
            content[at:at] = more[0]
        elif how == "swap" and content:
            other = int(more[0] * (len(content) - 1))
            content[at], content[other] = content[other], content[at]
    return bytes(content)


def read_or_refuse(read, *names, kinds=(ValueError,)):
    """What a reader returns; None where it refused, with an error that names one of the files."""
    try:
        return read()
    except ValueError as error:
        kind, message = type(error), str(error)
    assert kind in kinds, (kind, message)
    assert any(name in message for name in names), message
    assert len(message) < 2000
    return None


def places(value, path=()):
    """The path of every entry in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def npy(shape, *, dtype="|u1", content=b""):
    """The bytes of an array file with a header of one's own."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(members):
    """The bytes of an archive of arrays, or of bytes in place of arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if not isinstance(content, bytes):
                array, stream = content, io.BytesIO()
                np.save(stream, array)
                content = stream.getvalue()
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


LIES = {
    "more than there is": npy((10**13,), content=b"x"),
    "overflow": npy((2**62, 2**62), content=b"x"),
    "negative": npy((-1, 3), content=b"xxx"),
    "objects": npy((1,), dtype="|O", content=b"x"),
    "text": npy("x"),
    "code": npy((1,)).replace(b"(1,)", b"f(1)"),
    "no header": b"\x93NUMPY\x01\x00",
    "version": b"\x93NUMPY\x09\x00" + bytes(100),
    "parentheses": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "empty": b"",
}
"""Array files that are none."""
