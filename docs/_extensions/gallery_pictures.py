"""The gallery: scripts are run when a build begins, and the directive ``picture`` shows the result.

Pictures lie in the build folder; none is committed. A script is a file of ``docs/gallery`` with a
function ``main(folder)`` that writes ``folder/NAME.svg``.
"""

import ast
import logging
import os
import runpy
from pathlib import Path

import matplotlib as mpl
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def folder_of(app: Sphinx) -> Path:
    """Where the pictures of a build lie."""
    return Path(app.doctreedir) / "gallery"


def draw(app: Sphinx) -> None:
    """Run every script."""
    mpl.use("Agg")
    folder = folder_of(app)
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("regrow").setLevel(logging.WARNING)  # a line a rewiring is not for a build
    for script in sorted((Path(app.srcdir) / "gallery").glob("*.py")):
        runpy.run_path(str(script))["main"](folder)


class Picture(SphinxDirective):
    """``picture`` with the name of a script: its picture, with its docstring as the caption."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A figure, and the script to download."""
        name = self.arguments[0]
        script = Path(self.env.srcdir) / "gallery" / f"{name}.py"
        if not script.exists():
            raise self.error(f"there is no docs/gallery/{name}.py")
        self.env.note_dependency(str(script))
        docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        title, _, caption = docstring.partition("\n\n")
        picture = folder_of(self.env.app) / f"{name}.svg"
        from_source = Path(os.path.relpath(picture, self.env.srcdir)).as_posix()
        lines = [
            f"```{{figure}} /{from_source}",
            f":alt: {' '.join(title.split())}",
            "",
            *caption.splitlines(),
            "",
            f"Made by {{download}}`{name}.py </gallery/{name}.py>`.",
            "```",
        ]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=str(script)), 0, node)
        return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("picture", Picture)
    app.connect("builder-inited", draw)
    return {"parallel_read_safe": True}
