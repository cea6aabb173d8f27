"""Cards: the README of a repository, out of a template beside the code and the values that it shows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import atomic_file

if TYPE_CHECKING:
    import huggingface_hub

CARD_NAME = "README.md"


def render_card(template: Path, metadata: "huggingface_hub.CardData", **values: Any) -> str:
    """Write a card.

    Args:
        template: The Jinja template.
        metadata: What stands in the YAML block at its head.
        **values: What the template shows; one that it asks for and does not get is an error.

    Returns:
        The card, as a README.md holds it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    body = environment.get_template(template.name).render(**values)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def one_line(text: Any) -> str:
    """Make of what may be anybody's words one line that opens no column and no code of its own."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def write_card(path: str | Path, card: str) -> None:
    """Write a card as a file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(card)
