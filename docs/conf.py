"""
How Sphinx builds the pages: ``make docs``. The source folder is the checkout, so that links to other files of it hold. The pages
ask no other server for anything.
"""

import sys
from pathlib import Path
from typing import Any

import fedtl

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project, author = "fedtl", "the authors of fedtl"
copyright = author
release = version = fedtl.__version__
root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "reference", "notebooks", "intervals"]
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/**/*.md",
    "docs/notebooks/*.ipynb",
    "clients/*.md",
    "server/*.md",
    "deploy/*.md",
]
include_patterns += ["simulations/*.md", "simulations/**/*.md"]
exclude_patterns = [
    ".*",
    "**/.*",
    "build",
    "runs",
    "**/node_modules",
    "fedtl",
    "tests",
    "**/__pycache__",
    "*.egg-info",
]
source_suffix = {".md": "markdown"}
templates_path = ["_templates"]
html_additional_pages = {"index": "redirect.html"}

myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a generated section may be two levels deeper than its page
smartquotes = False  # "--resume" has two hyphens
highlight_language = "none"  # blocks without a language are commands and outputs
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages, whose pages are on other servers

html_theme = "furo"
html_title = f"fedtl {version}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = html_copy_source = False
html_theme_options: dict[str, Any] = {"navigation_with_keys": True, "top_of_page_buttons": []}
