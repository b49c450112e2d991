"""The directive ``public-names``: the reference page of a package, made from its ``__all__``.

A name that is added to ``__all__`` appears by itself. One without a docstring is a warning, and
so an error in CI. A name that two packages offer is documented in the inner one, and listed in the
outer one with a link to it.
"""

import ast
import functools
import importlib
import inspect
import pkgutil
import re
import types
from itertools import pairwise
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


def public_names(module: types.ModuleType) -> list[str]:
    """``__all__``, or for a single module what it defines itself under a public name."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    tree = ast.parse(inspect.getsource(module))
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return sorted(
        name for name in {*defined, *attribute_docstrings(module)} if not name.startswith("_")
    )


@functools.cache
def attribute_docstrings(module: types.ModuleType) -> dict[str, str]:
    """Name -> the string below its assignment, in a module or the modules of a package."""
    path = Path(module.__file__ or "")
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    found: dict[str, str] = {}
    for file in files:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        for node, below in pairwise(body):
            target = node.targets[0] if isinstance(node, ast.Assign) else node
            target = node.target if isinstance(node, ast.AnnAssign) else target
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(target, ast.Name) and is_text and isinstance(below.value.value, str):
                found[target.id] = inspect.cleandoc(below.value.value)
    return found


def public_modules() -> list[types.ModuleType]:
    """``regrow.NAME`` for each name without an underscore."""
    import regrow

    names = [module.name for module in pkgutil.iter_modules(regrow.__path__)]
    return [importlib.import_module(f"regrow.{name}") for name in names if name[0] != "_"]


@functools.cache
def home_of(package: str, name: str) -> str:
    """The package whose page documents a name in full: one below that offers the same thing."""
    offered = getattr(importlib.import_module(package), name)
    for inner in public_modules() if package == "regrow" else []:
        if name in public_names(inner) and getattr(inner, name) is offered:
            return inner.__name__
    return package


def docstring_of(module: types.ModuleType, name: str) -> str:
    """What is written about a public name; a warning where nothing is."""
    thing = getattr(module, name)
    if inspect.isclass(thing):  # (a subclass must not pass its base's off as its own)
        text = vars(thing).get("__doc__")
    elif inspect.isroutine(thing) or isinstance(thing, types.ModuleType):
        text = thing.__doc__
    else:
        text = attribute_docstrings(module).get(name)
    if not text:
        logger.warning("%s.%s has no docstring", module.__name__, name)
    return inspect.cleandoc(text or "")


def kind_of(thing: object) -> str:
    """What the Python domain of Sphinx calls it."""
    return "class" if inspect.isclass(thing) else "function" if inspect.isroutine(thing) else "data"


def without_substitutions(lines: list[str]) -> None:
    """Escape ``|w|`` outside of code: an absolute value, which reStructuredText would replace."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = line.split("``")
            parts[::2] = [re.sub(r"\\?\|", r"\\|", part) for part in parts[::2]]
            lines[i] = "``".join(parts)


class PublicNames(SphinxDirective):
    """``public-names`` with the name of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The package's docstring, then its names in alphabetical order."""
        package = self.arguments[0]
        module = importlib.import_module(package)
        lines, inner = [f".. automodule:: {package}", "   :no-members:", ""], []
        for name in sorted(public_names(module), key=str.lower):
            text = docstring_of(module, name)
            if isinstance(getattr(module, name), types.ModuleType):
                continue
            if home_of(package, name) != package:
                inner.append(self._listed(package, name, text))
            elif kind_of(getattr(module, name)) == "data":
                lines += _data(package, name, text)
            else:
                lines += [f".. auto{kind_of(getattr(module, name))}:: {package}.{name}", ""]
        found = self._parsed(lines)
        return [*found, nodes.definition_list("", *inner)] if inner else found

    def _parsed(self, lines: list[str]) -> list[nodes.Node]:
        text = StringList(["```{eval-rst}", *lines, "```"], source=self.get_source_info()[0])
        node = nodes.container()
        self.state.nested_parse(text, self.content_offset, node)
        return node.children

    def _listed(self, package: str, name: str, text: str) -> nodes.Node:
        """A line that links to where a name is documented, and can be linked to itself."""
        full, home = f"{package}.{name}", home_of(package, name)
        kind = kind_of(getattr(importlib.import_module(package), name))
        summary = text.partition("\n\n")[0].splitlines()
        without_substitutions(summary)
        lines = [f":py:obj:`{full} <{home}.{name}>`", *(f"   {line}" for line in summary)]
        item = next(iter(self._parsed(lines)[0].findall(nodes.definition_list_item)))
        item["ids"] = [full]
        self.env.get_domain("py").note_object(full, kind, full, aliased=True, location=item)
        return item


def _data(package: str, name: str, text: str) -> list[str]:
    lines = text.splitlines()
    without_substitutions(lines)
    thing = getattr(importlib.import_module(package), name)
    if isinstance(thing, str | int | float) or (
        isinstance(thing, tuple) and all(isinstance(one, str | int) for one in thing)
    ):
        lines += ["", f"Value: ``{thing!r}``"]
    return [
        f".. py:data:: {name}",
        f"   :module: {package}",
        "",
        *(f"   {line}" for line in lines),
        "",
    ]


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """Find what annotations name by a private path."""
    name = node["reftarget"].rpartition(".")[2]
    if node.get("refdomain") != "py" or not node["reftarget"].startswith("regrow."):
        return None
    domain = env.get_domain("py")
    for full, found in sorted(domain.objects.items()):
        if full.rpartition(".")[2] == name and not found.aliased and found.objtype != "module":
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)
    return None


def is_left_out(app: Sphinx, what: str, name: str, *others: object) -> bool | None:
    """Leave out what scikit-learn adds to every estimator for its metadata."""
    del app, what, others
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("public-names", PublicNames)
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", is_left_out)
    app.connect(
        "autodoc-process-docstring",
        lambda app, what, name, obj, options, lines: without_substitutions(lines),  # noqa: ARG005
        priority=900,  # behind napoleon
    )
    return {"parallel_read_safe": True}
