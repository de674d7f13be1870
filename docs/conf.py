"""How the site is made of the pages in docs/, the notebooks and the docstrings: see build.py."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import latex2mathml.converter
from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

import minifcn
from minifcn import functional
from minifcn.autograd import Primitive

project = "minifcn"
version = release = minifcn.__version__
root_doc = "docs/index"
# The pages lie in several folders, and link to each other as in the repository.
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    "notebooks/README.md",
    "notebooks/data/README.md",
    "minifcn/data/landcover/README.md",
    "benchmarks/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
templates_path: list[str] = []

nb_execution_mode = "off"  # notebooks are shown as they are stored
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # names in docstrings stand between single backquotes
nitpicky = True  # a reference to nothing is a warning, and build.py makes warnings errors
nitpick_ignore_regex = [("py:class", ".*")]  # types in signatures: of NumPy and typing, too
suppress_warnings = ["ref.python"]  # arguments have the names of attributes elsewhere
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_param = False  # shapes such as (N, C, H, W) stand where types would be
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "minifcn"
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_static_path = ["style.css"]
html_css_files = ["style.css"]


def setup(app: Sphinx) -> None:
    """Add what Sphinx does not do by itself."""
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))
    app.connect("missing-reference", _plain_name)
    app.connect("autodoc-process-docstring", _escape_bars)
    NbElementRenderer.render_image = _described_picture
    # Primitives show themselves as the functions that they are made of.
    for name in functional.__all__:
        thing = getattr(functional, name)
        if isinstance(thing, Primitive):
            setattr(functional, name, thing.function)


def _described_picture(
    renderer: NbElementRenderer, data: MimeData, show: Any = NbElementRenderer.render_image
) -> list[nodes.Element]:
    """Show a notebook's picture with its description; MyST-NB alone takes no more than its size."""
    pictures = show(renderer, data)
    for picture in pictures:
        picture["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return pictures


def _plain_name(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> Any:
    """Leave a name in a docstring that is no public one, such as an argument's, as it is."""
    return content if node["reftype"] == "obj" else None


def _escape_bars(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Keep |a - b| as it is: to Sphinx it would be the name of something to be filled in."""
    lines[:] = [line if ">>>" in line else line.replace("|", r"\|") for line in lines]


def _inline_formula(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(mathml(node, display="inline"))
    raise nodes.SkipNode


def _formula(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="formula">{mathml(node, display="block")}</div>')
    raise nodes.SkipNode


def mathml(node: nodes.Element, display: str) -> str:
    """Return a formula as MathML, which browsers show without a script and without a network."""
    latex = node.astext()
    made = latex2mathml.converter.convert(latex, display=display)
    try:
        unknown = "\\" in "".join(ET.fromstring(made).itertext())  # a command that it left as it is
    except ET.ParseError:
        unknown = True
    if unknown:
        logging.getLogger(__name__).warning("cannot show the formula %s", latex, location=node)
    return made
