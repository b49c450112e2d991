"""Nothing in the package unpickles, or reads a file by a function that would if asked to."""

import ast
from pathlib import Path

import pytest

import regrow

ROOT = Path(regrow.__file__).parent

UNPICKLERS = {
    "_pickle", "cPickle", "cloudpickle", "copyreg", "dill", "hickle", "joblib", "jsonpickle",
    "marshal", "pandas", "pickle", "pickletools", "shelve", "torch.package", "ruamel", "yaml",
}  # fmt: skip
"""Modules that run what a file says, or read pickles by default."""

NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
}
"""Readers that are fine with one argument, written out."""

NEVER = {
    "eval", "exec", "compile", "__import__", "np.fromregex", "np.genfromtxt", "np.loadtxt",
    "torch.jit.load", "torch.hub.load", "torch.export.load", "torch.classes.load_library",
    "torch.ops.load_library", "torch.serialization.load", "torch.distributed.checkpoint.load",
    "os.system",
}  # fmt: skip
"""Calls that run what they are given, or that nothing here needs."""

RUNS_CODE = {
    # The user names a constructor of a model, package.module:function.
    "models/_constructors.py": {"importlib.import_module"},
    # The name is written in our own sources: an optional package, or one of our own.
    "_optional.py": {"importlib.import_module"},
    "__init__.py": {"importlib.import_module"},
    "systems/truly_sparse/__init__.py": {"importlib.import_module"},
}

UNPICKLES_AFTER_A_CHECKSUM = {"data/_torchvision.py": {"CIFAR10", "CIFAR100"}}
"""torchvision's readers of CIFAR, whose official files are pickles: it unpickles a file only after
its MD5 was found to be that of the official one. No other reader of pickles is used, anywhere."""

OTHER_UNPICKLING_READERS = {"ImageNet", "OxfordIIITPet", "PCAM", "DatasetFolder", "WIDERFace"}


def trees():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    # require("yaml") and importlib.import_module("yaml") import as well.
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("require", "import_module")):
        return [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    return []


def offences(tree):
    """(line, what) of each import or call that must not be."""
    for node in ast.walk(tree):
        for name in imported(node):
            if name in UNPICKLERS or name.partition(".")[0] in UNPICKLERS:
                yield node.lineno, f"imports {name}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in NEVER or name.endswith((".unsafe_load", ".read_pickle", ".Unpickler")):
            yield node.lineno, f"calls {name}"
        if name.endswith("import_module"):
            yield node.lineno, "calls importlib.import_module"
        if name in NEEDS or (name.endswith(".load") and name.partition(".")[0] in ("np", "torch")):
            keyword, wanted = NEEDS.get(name, ("nothing", None))
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if given.get(keyword) is not wanted:
                yield node.lineno, f"calls {name} without {keyword}={wanted}"
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is not False:
                yield node.lineno, f"calls {name} with allow_pickle"
            if keyword.arg == "weights_only" and getattr(keyword.value, "value", None) is not True:
                yield node.lineno, f"calls {name} with weights_only"


def test_nothing_unpickles():
    found = [
        f"{path}:{line}: {what}"
        for path, tree in trees()
        for line, what in offences(tree)
        if what.removeprefix("calls ") not in RUNS_CODE.get(path, ())
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch.package",
        "def f():\n    import marshal",
        "yaml = require('yaml', extra='x')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "np.save(path, x, allow_pickle=True)",
        "torch.jit.load(path)",
        "eval(text)",
        "importlib.import_module(name)",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert list(offences(ast.parse(source)))


def test_allowed_readers_are_found_to_be_so():
    fine = "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\njson.loads(t)"
    assert not list(offences(ast.parse(fine)))


def test_only_the_readers_of_cifar_unpickle_and_only_by_name():
    readers = {"CIFAR10", "CIFAR100", *OTHER_UNPICKLING_READERS}
    used = {}
    for path, tree in trees():
        nodes = list(ast.walk(tree))
        words = {node.value for node in nodes if isinstance(node, ast.Constant)}
        words |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        words |= {name for node in nodes for name in imported(node)}
        if "torchvision.datasets" in words and words & readers:
            used[path] = words & readers
    assert used == UNPICKLES_AFTER_A_CHECKSUM


def test_torchvision_refuses_a_pickle_of_another_checksum(tmp_path):
    """The exception holds only as long as torchvision looks before it unpickles."""
    datasets = pytest.importorskip("torchvision.datasets")
    from regrow.data import load

    class Mine:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "unpickled",))

    import pickle

    for name, folder, files in (
        (
            "cifar10",
            "cifar-10-batches-py",
            [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list],
        ),
        (
            "cifar100",
            "cifar-100-python",
            [*datasets.CIFAR100.train_list, *datasets.CIFAR100.test_list],
        ),
    ):
        (tmp_path / folder).mkdir()
        for file, _ in files:
            (tmp_path / folder / file).write_bytes(pickle.dumps(Mine()))
        meta = getattr(datasets, name.upper()).meta["filename"]
        (tmp_path / folder / meta).write_bytes(pickle.dumps(Mine()))
        with pytest.raises(ValueError, match=f"{name}: torchvision does not accept the files"):
            load(name, tmp_path)
    assert not (tmp_path / "unpickled").exists()
