"""How Sphinx builds these pages: offline, without running a snippet, warnings being errors.

``sphinx-build -n -W --keep-going docs build/docs``
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
sys.path.insert(0, str(HERE.parent))  # the checkout that these pages lie in, installed or not

import regrow  # noqa: E402  # from the path above

project = "regrow"
author = "The regrow developers"
version = release = regrow.__version__
copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "public_names",
    "gallery_pictures",
]
exclude_patterns = ["_extensions"]
templates_path: list[str] = []
html_theme = "furo"
html_title = f"regrow {version}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

# Other projects' names cannot be looked up: their inventories are on the network, and this build
# is offline. A name of regrow that leads nowhere is an error.
nitpick_ignore_regex = [("py:.*", r"(?!regrow\b).*")]
# Arguments and fields that users neither make nor read.
nitpick_ignore = [
    ("py:class", "regrow._names.Owned"),
    ("py:class", "regrow.data._corrupted_folder.ClassFolders"),
    ("py:class", "regrow.training._compact.Holder"),
]
