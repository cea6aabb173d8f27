"""`hf-kcd models`: list networks with their parameters, cost, feature maps and published accuracies."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import attrgetter

from tqdm.auto import tqdm

from ..artifacts.files import write_json
from ..models.catalog import NetworkFacts, describe_network, find_networks
from ..models.published import PUBLISHED_SOURCES
from ..reporting import NOTHING, format_table
from .options import CommandParser

_SORTED_BY = {"parameters": attrgetter("num_parameters"), "macs": attrgetter("macs")}
# resnet8 comes before resnet20.
_SORTED_BY["name"] = lambda facts: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", facts.name)]
# Fewer networks are described before anyone could read a progress bar.
_MOST_WITHOUT_BAR = 20
_EPILOG = """examples:
  hf-kcd models                                        the CIFAR networks of the papers
  hf-kcd models 'vit_tiny*' resnet18 --sort macs       any names and wildcards of timm
  hf-kcd models runs/first                             the network in a folder"""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, _EPILOG, imports=True)
    names = "a timm name, a wildcard in quotes, or a folder with config.json ['cifar_*']"
    parser.add_argument("names", nargs="*", default=["cifar_*"], metavar="NAME", help=names)
    parser.add_argument("--sort", choices=[*_SORTED_BY], help="order of the rows [as given]")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    options = parser.parse_args(arguments)

    networks, refused = _describe(find_networks(options.names))
    if options.sort is not None:
        networks.sort(key=_SORTED_BY[options.sort])
    sources = [name for name in PUBLISHED_SOURCES if any(name in facts.published_top1 for facts in networks)]
    print(_table(networks, sources, options.markdown))
    print("\n" + ("\n\n" if options.markdown else "\n").join(_explanations(networks, sources)))
    for name, error in refused.items():
        print(f"Not listed: {name}: {error}", file=sys.stderr)
    if options.json is not None:
        write_json(options.json, [asdict(facts) for facts in networks])


def _describe(names: Sequence[str]) -> tuple[list[NetworkFacts], dict[str, Exception]]:
    """Describe networks; timm also registers encoders without a classifier, whose errors are returned by name."""
    networks, refused = [], {}
    for name in tqdm(names, unit="network", leave=False, disable=True if len(names) <= _MOST_WITHOUT_BAR else None):
        try:
            networks.append(describe_network(name))
        except (ValueError, TypeError, RuntimeError) as error:
            refused[name] = error
    if not networks:
        raise refused[names[0]]
    return networks, refused


def _table(networks: Sequence[NetworkFacts], sources: Sequence[str], markdown: bool) -> str:
    header = ["network", "taps", "image", "parameters", "MMACs", "pre", *sources]
    rows = []
    for facts in networks:
        taps, published = " / ".join([*_runs(facts.taps), str(facts.embedding_dim)]), facts.published_top1
        size = [f"{facts.num_parameters:,}", f"{facts.macs / 1e6:,.1f}", "yes" if facts.preactivations else "no"]
        top1 = [f"{published[name]:.2f}" if name in published else NOTHING for name in sources]
        rows.append([facts.name, taps, _shape(facts.input_size), *size, *top1])
    if len({facts.input_size for facts in networks}) == 1:
        header, *rows = ([*row[:2], *row[3:]] for row in (header, *rows))
    return format_table(header, rows, markdown, text_columns=2)


def _explanations(networks: Sequence[NetworkFacts], sources: Sequence[str]) -> list[str]:
    sizes = {facts.input_size for facts in networks}
    image = f"of {_shape(sizes.pop())}" if len(sizes) == 1 else "of the size given"
    lines = [
        "taps: channels,height of each feature map from shallow to deep, then the width of the embedding.",
        f"MMACs: millions of multiply-accumulates for one image {image}.",
        "pre: whether methods can read pre-activations, the feature maps before the last ReLU of a stage.",
    ]
    if sources:
        lines.append("Published top-1 accuracy (%) of the network trained alone:")
        lines += [f"  {source:<4}  {PUBLISHED_SOURCES[source]}" for source in sources]
    return lines


def _runs(taps: Iterable[tuple[int, int, int]]) -> Iterable[str]:
    # A transformer has many equal blocks; listed one by one they would not fit on a screen.
    for (channels, height, width), run in groupby(taps):
        count = len(list(run))
        text = f"{channels},{height}" if height == width else f"{channels},{height}x{width}"
        yield from [f"{text} x{count}"] if count > 2 else [text] * count


def _shape(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
