"""The pages build without a warning, and the reference has every public name."""

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest

import regrow

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDED = ("sphinx", "myst_parser", "furo", "matplotlib", "sklearn", "click")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def public_modules():
    """``regrow``, what it holds that has no underscore, and the packages of each system."""
    systems = importlib.import_module("regrow.systems")
    found = [f"regrow.{module.name}" for module in pkgutil.iter_modules(regrow.__path__)]
    below = pkgutil.walk_packages(systems.__path__, f"{systems.__name__}.")
    found += [module.name for module in below if module.ispkg]
    return ["regrow", *(n for n in found if "._" not in n and n != systems.__name__)]


def inner_packages():
    """Public packages further down: the package above offers their names."""
    found = pkgutil.walk_packages(regrow.__path__, "regrow.")
    parts = [module.name for module in found if module.ispkg and "._" not in module.name]
    return [name for name in parts if name.count(".") > 1 and name not in public_modules()]


def names_of(module):
    """``__all__``, or for a single module the public classes and functions that it defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


@pytest.mark.parametrize("name", public_modules())
def test_every_public_package_has_a_reference_page(name):
    page = DOCS / "reference" / f"{name.removeprefix('regrow.')}.md"
    wanted = f"# {name}\n\n```{{public-names}} {name}\n```\n"
    assert page.exists(), f"write {page.relative_to(ROOT)}:\n{wanted}"
    assert page.read_text(encoding="utf-8") == wanted


@pytest.mark.parametrize("name", inner_packages())
def test_names_of_inner_packages_are_offered_above(name):
    offered = set(names_of(importlib.import_module(name.rpartition(".")[0])))
    assert set(names_of(importlib.import_module(name))) <= offered


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a build, and what it printed."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [*command, "-d", str(folder / "state"), str(DOCS), str(folder / "html")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return folder / "html", done


def inventory(folder):
    """Name -> kind of everything that can be linked to."""
    raw = (folder / "objects.inv").read_bytes()
    head, body = raw.split(b"zlib.\n", 1)
    assert b"# Project: regrow" in head
    lines = zlib.decompress(body).decode().splitlines()
    return {line.split(" ", 2)[0]: line.split(" ", 2)[1] for line in lines}


@pytest.mark.slow
def test_builds_without_warnings(built):
    _, done = built
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", public_modules())
def test_every_public_name_is_in_the_reference(name, built):
    found = inventory(built[0])
    module = importlib.import_module(name)
    names = names_of(module)
    assert names
    missing = [f"{name}.{one}" for one in names if f"{name}.{one}" not in found]
    assert not missing
    assert found[name] == "py:module"


@pytest.mark.slow
def test_members_are_in_the_reference(built):
    found = inventory(built[0])
    assert found["regrow.training.TopologyUpdater.state_dict"] == "py:method"
    assert found["regrow.topology.Topology.mask"] in {"py:property", "py:attribute"}
    assert found["regrow.criteria.magnitude"] == "py:data"


@pytest.mark.slow
def test_pictures_and_reference_are_on_the_pages(built):
    folder, _ = built
    gallery = (folder / "gallery" / "index.html").read_text(encoding="utf-8")
    for script in (DOCS / "gallery").glob("*.py"):
        assert f"{script.stem}.svg" in gallery
        assert (folder / "_images" / f"{script.stem}.svg").stat().st_size > 1000
    page = (folder / "reference" / "criteria.html").read_text(encoding="utf-8")
    assert "|w|: RigL, GraNet" in page  # the string below the assignment


def test_every_public_name_has_a_docstring():
    """Functions, classes and packages by themselves; constants by the string below them."""
    sys.path.insert(0, str(DOCS / "_extensions"))
    try:
        if MISSING:
            pytest.skip(f"needs {', '.join(MISSING)}: pip install '.[docs]'")
        from public_names import docstring_of
    finally:
        sys.path.pop(0)
    silent = []
    for name in public_modules():
        module = importlib.import_module(name)
        for one in names_of(module):
            if isinstance(getattr(module, one), types.ModuleType):
                continue
            if not docstring_of(module, one):
                silent.append(f"{name}.{one}")
    assert not silent
