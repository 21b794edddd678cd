"""Sphinx configuration. Built with `-n -W`: a broken reference fails the build."""

from __future__ import annotations

from safejax import __version__

project = "safejax"
author = "The safejax authors"
copyright = "The safejax authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = f"safejax {release}"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# No inventory is fetched, so that the build needs no network: names of other
# projects are not links.
nitpicky = True
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(jax|jaxlib|numpy|np|jnp|collections|contextlib|os|pathlib|typing|typing_extensions"
        r"|prometheus_client|opentelemetry)\..*",
    ),
    ("py:.*", r"safejax\.(\w+\.)*_\w+\.\w+"),  # types of private modules
    ("py:.*", r"(Any|Axis|Constraint|Callable|Mapping|Sequence|Literal|Kind|P|R|_\w+)"),
    ("py:.*", r"(App|Decision|Digest|Identify|Reported\w+)"),
    ("py:.*", r"(bool|dict|float|int|list|object|str|tuple|type|None|optional)"),
    ("py:.*", r"(\w+Error|Exception|dataclasses\..*|builtins\..*)"),
]
