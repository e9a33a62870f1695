"""The options of the commands that look at a cluster. Apart from the reading, so that --help needs no client."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

_DEFAULT_KUBECONFIG: Final = "~/.kube/config"
OUTPUT_TEXT: Final = "text"
OUTPUT_JSON: Final = "json"

EXIT_GOOD, EXIT_NOT, EXIT_USAGE, EXIT_NO_ANSWER = 0, 1, 2, 3
"""Exit status: what was asked for is so; it is not; wrong usage; the cluster could not be asked."""


def add_cluster_options(parser: argparse.ArgumentParser, *, namespace_help: str) -> None:
    """Add what all of these commands have."""
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help=f"default: $KUBECONFIG, else {_DEFAULT_KUBECONFIG}, else the pod's service account",
    )
    parser.add_argument("-n", "--namespace", metavar="NAMESPACE", help=namespace_help)
    parser.add_argument("-o", "--output", choices=(OUTPUT_TEXT, OUTPUT_JSON), default=OUTPUT_TEXT, help="default: text")


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fracgpu fit`."""
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        required=True,
        metavar="FILE",
        help="manifests: YAML or JSON file, directory, or - for standard input; may be given several times",
    )
    parser.add_argument("-R", "--recursive", action="store_true", help="read directories with all below them")
    parser.add_argument(
        "--replicas", type=_count, metavar="N", help="pods of each workload, in place of its own number"
    )
    add_cluster_options(parser, namespace_help="of manifests that name none; default: that of the kubeconfig")


def add_explain_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fracgpu explain`."""
    parser.add_argument("object", metavar="pod/NAME|claim/NAME", type=_named_object, help="what to explain")
    add_cluster_options(parser, namespace_help="default: that of the kubeconfig")


def add_top_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fracgpu top`."""
    parser.add_argument("what", nargs="?", choices=("gpus", "claims", "nodes"), default="gpus", help="default: gpus")
    add_cluster_options(parser, namespace_help="for claims: only those of this namespace")


def kubeconfig_of(parsed: argparse.Namespace) -> Path | None:
    """Return the kubeconfig file to use; None for the pod's service account."""
    if parsed.kubeconfig is not None:
        return Path(parsed.kubeconfig)
    named = os.environ.get("KUBECONFIG", "")
    if named:
        return Path(named)
    usual = Path(_DEFAULT_KUBECONFIG).expanduser()
    return None if "KUBERNETES_SERVICE_HOST" in os.environ and not usual.exists() else usual


MOST_PODS: Final = 10_000


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MOST_PODS):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is not a number from 1 to {MOST_PODS}")
    return int(text)


_KINDS: Final = {
    **dict.fromkeys(("pod", "pods", "po"), "pod"),
    **dict.fromkeys(("claim", "claims", "resourceclaim", "resourceclaims"), "claim"),
}


def _named_object(text: str) -> tuple[str, str]:
    kind, slash, name = text.partition("/")
    if not slash or not name or "/" in name or kind.lower() not in _KINDS:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is neither pod/NAME nor claim/NAME")
    return _KINDS[kind.lower()], name
