"""One self-contained HTML page from templates of a package, which runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

QUALITY = 82


def fill_page(
    package: str,
    name: str,
    variables: Mapping[str, Any],
    *,
    style: str | None = None,
    scripts: Sequence[str] | None = None,
    filters: Mapping[str, Callable[..., str]] | None = None,
    connect: str = "'none'",
) -> str:
    """Return ``NAME.html`` of a package's templates, which extends ``page.html``, with its style and scripts in it.

    All texts are escaped, and a Content-Security-Policy blocks the network and all styles and scripts but these, whatever the
    variables contain.

    Parameters
    ----------
    package : str
        With a folder ``templates``.
    name : str
    variables : dict
        Of the template.
    style : str, optional
        The template of its style, after that of all pages; by default ``NAME.css``.
    scripts : sequence of str, optional
        Templates of its scripts; by default ``NAME.js``.
    filters : dict, optional
        Name → filter of the template's values.
    connect : str
        To where the script may connect, as the policy says it.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # late, since predictions show no page
    from markupsafe import Markup

    loader = ChoiceLoader([PackageLoader(each, "templates") for each in (package, __package__)])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters or {}

    def joined(names: Iterable[str]) -> str:
        return "\n".join(loader.get_source(environment, each)[0] for each in names)

    styles = joined(("page.css", style or f"{name}.css"))
    script = joined((f"{name}.js",) if scripts is None else scripts)
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src {source_hash(styles)}; script-src {source_hash(script)}; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{name}.html").render(
        **variables, style=Markup(styles), script=Markup(script), policy=policy
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
