import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from regrow._replacing import SUFFIX, replacing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    """Of this process, put back afterwards."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def write_privately(path):
    """As safetensors does: a file of mode 0600 that takes the place of what was there."""
    descriptor, made = tempfile.mkstemp(dir=path.parent)
    os.write(descriptor, b"new")
    os.close(descriptor)
    Path(made).replace(path)


def write_plainly(path):
    path.write_bytes(b"new")


@pytest.mark.parametrize("write", [write_privately, write_plainly])
def test_a_new_file_gets_what_the_umask_leaves(tmp_path, umask, write):
    path = tmp_path / "folder" / "file"
    with replacing(path) as temporary:
        write(temporary)
    assert mode_of(path) == 0o666 & ~umask
    assert path.read_bytes() == b"new"
    assert os.umask(umask) == umask  # as it was, also for other threads


@pytest.mark.parametrize("write", [write_privately, write_plainly])
@pytest.mark.parametrize("mode", [0o640, 0o444, 0o600, 0o664])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    with replacing(path) as temporary:
        write(temporary)
    assert mode_of(path) == mode
    assert path.read_bytes() == b"new"


def test_two_at_a_time_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write_bytes(b"first")
        with replacing(path) as second:
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as temporary:
            assert temporary.name.endswith(SUFFIX)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
