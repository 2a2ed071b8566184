"""How the documentation site is made: `make docs`, strictly, into site/."""

from importlib.metadata import version as installed

project, author, copyright = "nshot", "the nshot authors", "the nshot authors"
version = release = installed("nshot")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["results/*.md"]  # tables that docs/results.md has
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nitpicky = True  # a name in the reference that is nowhere is an error
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|pathlib|collections|typing|nn|Tensor|Path|Generator|Any|Callable|Optimizer)\b.*"),
    (r"py:.*", r"nshot\.(spaces|strategies|dynamic|errors|handover|networks)\..*"),  # read in the source
    (r"py:class", r"(_T|S|T|optional|G|Complexity\w*|Subnet|Format|ndarray|LRScheduler)"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"nshot {release}"
html_static_path: list[str] = []
html_theme_options = {"navigation_with_keys": True}
linkcheck_timeout = 20
