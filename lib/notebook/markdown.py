"""Show Markdown of others as HTML that runs nothing and fetches nothing."""

from __future__ import annotations

import html

import mistune


class _Renderer(mistune.HTMLRenderer):
    """Render headings below those of a page, and pictures by name: nothing is fetched."""

    def heading(self, text: str, level: int, **attributes: object) -> str:
        """Return a heading of level 4 to 6."""
        return super().heading(text, min(max(level + 1, 4), 6), **attributes)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Return the name of a picture."""
        return f"{text} (picture: {html.escape(url)})"


_markdown = mistune.create_markdown(
    renderer=_Renderer(escape=True), plugins=["table", "strikethrough"]
)


def to_html(text: str) -> str:
    """Return Markdown as HTML, with raw HTML escaped and no link that runs a script."""
    return str(_markdown(text))
