"""The shape of the package: who imports whom, what is public, what is documented."""

import ast
import doctest
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
import types
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import regrow

ROOT = Path(regrow.__file__).parent
OPTIONAL = {"PIL", "cv2", "matplotlib", "numba", "scipy", "sklearn", "torchvision", "triton"}

FOUNDATION = {
    "typing",
    "errors",
    "_optional",
    "_checks",
    "_names",
    "_replacing",
    "_resize",
    "_sharding",
}
RANKS = {
    **dict.fromkeys(FOUNDATION, 0),
    **dict.fromkeys(("topology", "schedules"), 1),
    **dict.fromkeys(("criteria", "allocation", "ops"), 2),
    **dict.fromkeys(("nn", "accounting"), 3),
    "training": 4,
    **dict.fromkeys(("diagnostics", "methods", "ensembles"), 5),
    "contrib": 6,
    **dict.fromkeys(("data", "models", "study"), 7.1),
    **dict.fromkeys(("integrations", "robustness"), 7.2),
    "systems": 7.3,
    "cli": 8,
}
N_LINES = 400
CORE = 5
"""Up to this rank packages need nothing but torch and numpy."""


def source_files():
    return sorted(path for path in ROOT.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def package_of(module):
    """``regrow.topology._select`` -> ``topology``; ``regrow`` itself -> nothing."""
    return module.partition(".")[2].partition(".")[0]


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree):
    """(line, module, name) of each import that runs, inside functions too; name may be None."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, node.module or "", alias.name
        yield from imports(node)


def imports_of_regrow(path):
    """(line, module, name), with ``from regrow import topology`` read as the package."""
    for line, module, name in imports(ast.parse(path.read_text())):
        if module == "regrow" and name in RANKS:
            module, name = f"regrow.{name}", None
        if module == "regrow" or module.startswith("regrow."):
            yield line, module, name


def objection(importer, module, name):
    """Why ``importer`` may not have it, or ""."""
    own, other = package_of(importer), package_of(module)
    if not {own, other} <= {*RANKS, ""}:
        return "a package without a rank"
    if own == other and other:
        return ""
    if not other:
        return "" if RANKS[own] > CORE else "the core imports parts, not the whole"
    if not own:
        # The package's own __init__ offers public names of the core; the rest on first use.
        return "" if RANKS[other] <= 6 and module.count(".") == 1 else "not public, or not core"
    if RANKS[other] == 0:
        return ""
    if RANKS[other] >= RANKS[own]:
        return f"rank {RANKS[other]:g} is not below {RANKS[own]:g}"
    if own == "nn" and RANKS[other] == 2 and other != "ops":
        return "of rank 2, nn may import ops only"
    if any(part.startswith("_") for part in [*module.split(".")[1:], name or ""]):
        return "a private name of another package"
    return ""


def test_imports_point_down():
    wrong = []
    for path in source_files():
        importer = module_name(path)
        for line, module, name in imports_of_regrow(path):
            if why := objection(importer, module, name):
                wrong.append(f"{path.relative_to(ROOT.parent)}:{line}: {module} {name}: {why}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_systems_do_not_import_each_other():
    for path in (ROOT / "systems").rglob("*.py"):
        own = module_name(path).split(".")[:3]
        others = [m for _, m, _ in imports_of_regrow(path) if m.startswith("regrow.systems.")]
        assert all(other.split(".")[:3] == own for other in others), path


def test_every_package_has_a_rank():
    found = {package_of(module_name(path)) for path in source_files()} - {""}
    assert found <= set(RANKS)


def test_no_relative_imports():
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}:{node.lineno}"


def test_modules_are_short():
    long = {
        str(path): n for path in source_files() if (n := path.read_text().count("\n")) > N_LINES
    }
    assert not long


def packages():
    return [path.parent for path in source_files() if path.name == "__init__.py"]


def declared(tree):
    """What ``__all__`` lists, and None where a module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.name)
def test_all_is_what_the_init_brings(package):
    tree = ast.parse((package / "__init__.py").read_text())
    assert ast.get_docstring(tree), "a package says what it is for"
    brought = {
        node.name: ""
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "regrow":
            brought |= {alias.asname or alias.name: node.module for alias in node.names}
    listed = declared(tree) or []
    assert len(listed) == len(set(listed)), "a name is listed twice"
    # (A name of rank 0 may be there for the package's own use.)
    own_use = {name for name, module in brought.items() if package_of(module) in FOUNDATION}
    assert set(brought) - own_use <= set(listed) <= set(brought)
    assert not [name for name in listed if name.startswith("_")]


def test_names_on_first_use_resolve():
    for name in regrow._ON_FIRST_USE:
        assert name in dir(regrow)
    assert set(regrow.__all__) <= set(dir(regrow))
    with pytest.raises(AttributeError, match="no attribute 'masking'"):
        regrow.masking  # noqa: B018


# -- documentation -------------------------------------------------------------------------------


def missing_optional(error):
    return (getattr(error, "name", "") or "").partition(".")[0] in OPTIONAL | {
        "click",
        "rich",
        "safetensors",
    }


def load(name):
    """A module, or a skipped test where a package that it needs at import is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        cause = error.__cause__ or error
        if not missing_optional(cause):
            raise
        return pytest.skip(f"{name} needs {cause.name}")


def public_objects():
    """(where, object) of every public function and class, and of their public methods."""
    seen = {}
    for package in packages():
        module = module_name(package / "__init__.py")
        for name in declared(ast.parse((package / "__init__.py").read_text())) or []:
            seen[f"{module}.{name}"] = (module, name)
    return seen


def attributes_of(cls):
    for name, value in vars(cls).items():
        if name.startswith("_"):
            continue
        value = getattr(value, "__func__", value)
        if isinstance(value, types.FunctionType | property):
            yield name, value


def documented_arguments(docstring):
    """Names under ``Args:``, or None where there is no such section."""
    match = re.search(r"^Args:\n((?:    .*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.M)
    if match is None:
        return None
    return [name.lstrip("*") for name in re.findall(r"^    (\*{0,2}\w+):", match[1], re.M)]


def arguments(obj):
    parameters = [name for name in inspect.signature(obj).parameters if name not in ("self", "cls")]
    if inspect.isclass(obj) and is_dataclass(obj):
        parameters = [name for name in parameters if not name.startswith("_")]
    return parameters


def complaints(where, obj):
    docstring = obj.__doc__ if not inspect.isclass(obj) else vars(obj).get("__doc__")
    if not docstring or docstring.startswith(f"{getattr(obj, '__name__', '')}("):
        yield f"{where}: no docstring"  # (dataclasses make one up from the signature)
        return
    if isinstance(obj, property) or getattr(obj, "_is_protocol", False):
        return
    listed = documented_arguments(docstring)
    if listed is not None and listed != arguments(obj):
        yield f"{where}: documents {listed}, takes {arguments(obj)}"


@pytest.mark.parametrize("where", public_objects())
def test_public_names_are_documented(where):
    module, name = public_objects()[where]
    obj = getattr(load(module), name)
    if isinstance(obj, types.ModuleType):
        assert obj.__doc__
        return
    if not isinstance(obj, types.FunctionType | type):
        return  # constants and type aliases: a docstring below them is no attribute
    found = list(complaints(where, obj))
    if inspect.isclass(obj) and obj.__module__.startswith("regrow"):
        for attribute, value in attributes_of(obj):
            found += complaints(f"{where}.{attribute}", value)
    assert not found, "\n".join(found)


def core_modules():
    names = [module_name(path) for path in source_files()]
    return [name for name in names if RANKS.get(package_of(name), 0) <= CORE]


@pytest.mark.parametrize("name", core_modules())
def test_examples_in_docstrings(name):
    result = doctest.testmod(load(name))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    n = sum(len(t.examples) for name in core_modules() for t in finder.find(load(name)))
    assert n > 20


# -- what an import costs ------------------------------------------------------------------------


@functools.cache
def loaded_by(statement):
    """Names of the top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}; import sys; print(*{{m.partition('.')[0] for m in sys.modules}})"
    environment = os.environ | {"PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", sorted(OPTIONAL | {"click", "rich", "safetensors", "pandas"}))
def test_importing_regrow_imports_no_optional_package(name):
    loaded = loaded_by("import regrow")
    assert "regrow" in loaded
    assert name not in loaded


def test_importing_regrow_touches_neither_cuda_nor_random_state():
    statement = (
        "import torch; torch.manual_seed(3); state = torch.get_rng_state(); import regrow;"
        "assert torch.equal(torch.get_rng_state(), state); assert not torch.cuda.is_initialized()"
    )
    assert "regrow" in loaded_by(statement)
