"""Why kube-scheduler finds no node for a pod, in its words.

Users know the sentence, and tools look for it.

Source: FitError in pkg/scheduler/framework/types.go, the PostFilter of dynamicresources and defaultpreemption of
Kubernetes 1.36.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

NO_NODES = "no nodes available to schedule pods"
CANNOT_ALLOCATE = "cannot allocate all claims"
NO_CLAIMS = "no new claims to deallocate"
STILL = "still not schedulable"
DEALLOCATED = "deallocation of ResourceClaim completed"

# What another pod's end would change: preemption looks at such a node, and as pods have no priorities here, in vain.
_RESOLVABLE = ("Insufficient ", "Too many pods", "node(s) didn't have free ports")
_NO_VICTIMS = "No preemption victims found for incoming pod"
_NO_HELP = "Preemption is not helpful for scheduling"


def fit_error(rejections: Mapping[str, str], after: str) -> str:
    """Return the message for a pod that every node rejects: `rejections` by node, `after` what came of claims."""
    if not rejections:
        return NO_NODES
    reasons = Counter(reason for text in rejections.values() for reason in _split(text))
    resolvable = sum(text.startswith(_RESOLVABLE) for text in rejections.values())
    help_ = Counter({_NO_VICTIMS: resolvable, _NO_HELP: len(rejections) - resolvable})
    return _message(len(rejections), f"{_counted(reasons)}.", after, help_)


def pre_filter_error(nodes: Collection[str], why: str) -> str:
    """Return the message for a pod that is refused before any node is looked at."""
    return _message(len(nodes), f"{why}.", NO_CLAIMS, Counter({_NO_HELP: len(nodes)})) if nodes else NO_NODES


def _message(total: int, why: str, after: str, help_: Counter[str]) -> str:
    none = f"0/{total} nodes are available:"
    return f"{none} {why} {after}, preemption: {none} {_counted(help_)}."


def _split(text: str) -> list[str]:
    return text.split(", ") if text.startswith("Insufficient ") else [text]


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items() if count))
