"""The site: ``sphinx-build -W -c docs . site`` in the repository's root.  Its sources are these pages, the language's
reference and the pages of the errors, where they are."""

from sphinx.highlighting import lexers

import netc
from netc.compiler.editor.lexer import NetLexer

project = "netc"
version = release = netc.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "examples/README.md", "grammar/REFERENCE.md", "grammar/errors/*.md"]

html_theme = "furo"
html_title = f"netc {version}"
html_copy_source = False
pygments_style = "friendly"

myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
lexers["net"] = NetLexer()          # in a checkout the entry point is not there
