"""Cards: the README of a repository, rendered from a template."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import atomic_file

if TYPE_CHECKING:
    import huggingface_hub

CARD_NAME = "README.md"


def render_card(template: Path, metadata: "huggingface_hub.CardData", **values: Any) -> str:
    """Render a README.md from metadata and a Jinja template; a missing value is an error."""
    import jinja2

    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    body = jinja2.Template(template.read_text(encoding="utf-8"), **options).render(**values)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def one_line(text: Any) -> str:
    """Flatten untrusted text to one line; escape pipes and backticks."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def write_card(path: str | Path, card: str) -> None:
    """Write a card as a file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(card, encoding="utf-8")


def format_size(num_bytes: int) -> str:
    """Write a number of bytes for people: "4.8 kB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"
