"""Pages from templates. Everything from outside is escaped as HTML, and cleaned as for a terminal."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from crisper.core.progress import so_far
from crisper.core.size import size
from crisper.faces.cli.text import age, clean, plural, seconds
from crisper.faces.serve.access import Role, Who


def _progress(told: dict[str, Any] | None) -> str:
    return "-" if told is None else so_far(told["done"], told["total"]) or "-"


_ENVIRONMENT = Environment(
    loader=PackageLoader("crisper.faces.serve"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"clean": clean, "age": age, "plural": plural, "seconds": seconds}
_ENVIRONMENT.filters |= {"progress": _progress, "size": size}

#: Below these nobody is answered with a page.
_FOR_PROGRAMS = ("/api/", "/metrics", "/healthz", "/readyz", "/static/", "/live")


def is_page(scope: Any) -> bool:
    return not str(scope["path"]).startswith(_FOR_PROGRAMS)


def page(scope: Any, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    state = scope.get("state", {})
    who: Who | None = state.get("who")
    shown = _ENVIRONMENT.get_template(template).render(
        who=who,
        operator=who is not None and who.role >= Role.OPERATOR,
        accounts=state.get("accounts", False),
        path=scope["path"],
        **context,
    )
    return HTMLResponse(shown, status)


def part(template: str, **context: Any) -> Markup:
    """What a page shows to everybody, its block `shown`: drawn once for as many as ask at that time."""
    made = _ENVIRONMENT.get_template(template)
    return Markup("".join(made.blocks["shown"](made.new_context(context))))
