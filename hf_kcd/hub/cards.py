"""Cards: the README of a repository, out of a template beside the code and the values that it shows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import huggingface_hub

_PREFIXES = ("hf_hub:", "hf-hub:")


def render_card(template: str, metadata: "huggingface_hub.CardData", **values: Any) -> str:
    """Write a card.

    Args:
        template: Name of the template, a file of this folder.
        metadata: What stands in the YAML block at its head.
        **values: What the template shows; one that it asks for and does not get is an error.

    Returns:
        The card, as a README.md holds it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    body = environment.get_template(template).render(**values)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body.strip()}\n"


def one_line(text: Any) -> str:
    """Make of what may be anybody's words one line that opens no column and no code of its own."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def repository_of(name: str | None) -> str | None:
    """Take the repository out of a network's name, "user/name" out of "hf_hub:user/name@revision"; None where there is none."""
    for prefix in _PREFIXES:
        if name and name.startswith(prefix):
            return name.removeprefix(prefix).partition("@")[0]
    return None
