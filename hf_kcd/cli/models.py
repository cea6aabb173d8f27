"""`hf-kcd models`: list networks with their parameters, cost, taps and published accuracies."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby

from tqdm.auto import tqdm

from ..artifacts.files import write_json
from ..models.catalog import NetworkFacts, describe_network, find_networks
from ..models.published import PUBLISHED_SOURCES
from ..reporting import NOTHING, format_table

_SORTED_BY = {
    "name": lambda facts: _natural(facts.name),
    "parameters": lambda facts: facts.num_parameters,
    "macs": lambda facts: facts.macs,
}
# Fewer are described before a bar would be read.
_MOST_WITHOUT_BAR = 20
_EPILOG = """examples:
  hf-kcd models                                        the CIFAR networks of the papers
  hf-kcd models 'vit_tiny*' resnet18 --sort macs       any names and wildcards of timm
  hf-kcd models runs/first                             the network in a folder"""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(
        prog="hf-kcd models",
        description=__doc__.split(": ")[1],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "names",
        nargs="*",
        default=["cifar_*"],
        metavar="NAME",
        help="a timm name, a wildcard in quotes, or a folder with config.json ['cifar_*']",
    )
    parser.add_argument("--sort", choices=[*_SORTED_BY], help="order of the rows; that of the names without it")
    parser.add_argument("--markdown", action="store_true", help="write a Markdown table")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args(arguments)

    networks, refused = describe_networks(find_networks(options.names))
    if options.sort is not None:
        networks.sort(key=_SORTED_BY[options.sort])
    print(networks_table(networks, markdown=options.markdown))
    print("\n" + ("\n\n" if options.markdown else "\n").join(explanations(networks)))
    for name, error in refused.items():
        print(f"Not listed: {name}: {error}", file=sys.stderr)
    if options.json is not None:
        write_json(options.json, [asdict(facts) for facts in networks])


def describe_networks(names: Sequence[str]) -> tuple[list[NetworkFacts], dict[str, Exception]]:
    """Describe networks, behind a bar when they are many and somebody looks.

    Args:
        names: What `find_networks` returned.

    Returns:
        The networks; and by name the errors of those that cannot be described (timm also registers encoders that
        classify nothing).

    Raises:
        Exception: When there is none that can be.
    """
    networks, refused = [], {}
    for name in tqdm(names, unit="network", leave=False, disable=True if len(names) <= _MOST_WITHOUT_BAR else None):
        try:
            networks.append(describe_network(name))
        except (ValueError, TypeError, RuntimeError) as error:
            refused[name] = error
    if not networks:
        raise refused[names[0]]
    return networks, refused


def networks_table(networks: Sequence[NetworkFacts], *, markdown: bool = False) -> str:
    """Write one row per network.

    Args:
        networks: What `describe_network` returned.
        markdown: Write a Markdown table instead of aligned text.
    """
    sources = _sources(networks)
    sizes = {facts.input_size for facts in networks}
    header = ["network", "taps", "parameters", "MMACs", "pre", *sources]
    rows = [
        [
            facts.name,
            " / ".join([*_runs(facts.taps), str(facts.embedding_dim)]),
            f"{facts.num_parameters:,}",
            f"{facts.macs / 1e6:,.1f}",
            "yes" if facts.preactivations else "no",
            *(
                f"{facts.published_top1[source]:.2f}" if source in facts.published_top1 else NOTHING
                for source in sources
            ),
        ]
        for facts in networks
    ]
    if len(sizes) > 1:
        header.insert(2, "image")
        for row, facts in zip(rows, networks, strict=True):
            row.insert(2, _shape(facts.input_size))
    return format_table(header, rows, markdown, text_columns=2)


def explanations(networks: Sequence[NetworkFacts]) -> list[str]:
    """Say what the columns of `networks_table` mean, one line each."""
    sizes = {facts.input_size for facts in networks}
    image = f"of {_shape(sizes.pop())}" if len(sizes) == 1 else "of the size given"
    lines = [
        "taps: channels,height of each feature map from shallow to deep, then the width of the embedding.",
        f"MMACs: millions of multiply-accumulates for one image {image}.",
        "pre: whether it hands out pre-activations, the stages before their last ReLU, where they end in one.",
    ]
    sources = _sources(networks)
    if sources:
        lines.append("Published top-1 (%) of the network trained alone:")
        lines += [f"  {source:<4}  {PUBLISHED_SOURCES[source]}" for source in sources]
    return lines


def _sources(networks: Sequence[NetworkFacts]) -> list[str]:
    return [source for source in PUBLISHED_SOURCES if any(source in facts.published_top1 for facts in networks)]


def _runs(taps: Iterable[tuple[int, int, int]]) -> Iterable[str]:
    # The blocks of a transformer are alike; one after the other they would be wider than any screen.
    for (channels, height, width), run in groupby(taps):
        count = len(list(run))
        text = f"{channels},{height}" if height == width else f"{channels},{height}x{width}"
        yield from [f"{text} x{count}"] if count > 2 else [text] * count


def _natural(name: str) -> list[str | int]:
    # resnet8 comes before resnet20.
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _shape(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
