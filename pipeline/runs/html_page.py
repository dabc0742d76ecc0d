"""One self-contained HTML page from templates of a package, which runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from PIL import Image

QUALITY = 82


def fill_page(package: str, name: str, variables: dict[str, Any], connect: str = "'none'") -> str:
    """Return ``NAME.html`` of a package's templates, with ``NAME.css`` and ``NAME.js`` in it.

    All texts are escaped, and a Content-Security-Policy blocks the network and all styles and scripts but these two.

    Parameters
    ----------
    package : str
        With a folder ``templates``.
    name : str
    variables : dict
        Of the template.
    connect : str
        To where the script may connect, as the policy says it.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # imported late, since predictions show no page
    from markupsafe import Markup

    loader = PackageLoader(package, "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = (loader.get_source(environment, f"{name}.{end}")[0] for end in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src {source_hash(style)}; script-src {source_hash(script)}; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{name}.html").render(
        **variables, style=Markup(style), script=Markup(script), policy=policy
    )


def data_uri(pixels: Image.Image, side: int) -> str:
    """Return an image, at most `side` pixels wide and high, as the data URI of a JPEG."""
    pixels.thumbnail((side, side))
    file = io.BytesIO()
    pixels.save(file, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def source_hash(text: str) -> str:
    """Return how a Content-Security-Policy names a style or script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
