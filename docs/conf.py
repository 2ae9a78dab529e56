"""Settings of the site, for Sphinx: ``make docs``.

``TORCHRL_DOCS_RUN=0`` builds it without running the tutorials.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))
os.environ.setdefault("MPLBACKEND", "Agg")

import torchrl  # noqa: E402

project = "torchrl"
copyright = "the torchrl authors"
version = release = torchrl.__version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "docstrings",
    "pages",
    "reference",
    "gallery",
    "scores",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_ext", "_templates", "sg_execution_times.rst", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True

# API reference
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
viewcode_line_numbers = True
toc_object_entries_show_parents = "hide"

# Markdown
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "fieldlist", "html_image"]
myst_heading_anchors = 4

# Tutorials
sphinx_gallery_conf = {
    "examples_dirs": "../tutorials",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py|/notebooks/|conftest\.py",
    "nested_sections": False,
    "within_subsection_order": "FileNameSortKey",
    "plot_gallery": os.environ.get("TORCHRL_DOCS_RUN", "1") != "0",
    "parallel": 2,
    "doc_module": (),
    "remove_config_comments": True,
    "show_signature": False,
    "min_reported_time": 10**6,
    "write_computation_times": False,
    "download_all_examples": False,
    "capture_repr": ("_repr_html_",),  # films
}

# Appearance
html_theme = "pydata_sphinx_theme"
html_title = "torchrl"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["versions.js"]
html_context = {
    "default_mode": "auto",
    "docs_version": os.environ.get("TORCHRL_DOCS_VERSION", "main"),
    "docs_versions": json.loads((DOCS / "_static/switcher.json").read_text()),
}
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which files may not
html_sidebars = {"index": [], "examples": [], "search": []}
html_theme_options = {
    "logo": {"text": "torchrl", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_align": "left",
    "navbar_end": ["versions", "theme-switcher"],
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "collapse_navigation": True,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
