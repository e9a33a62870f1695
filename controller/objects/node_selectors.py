"""NodeSelector, as kube-scheduler matches it: for a pod's required affinity and for an allocation's node selector.

Source: k8s.io/api/core/v1 (NodeSelector), k8s.io/component-helpers/scheduling/corev1/nodeaffinity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fracgpu.controller.objects.facts import Json, dig, items, text, texts

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")


def selector_takes(selector: Json | None, name: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a NodeSelector takes the node with this name and these labels. None takes every node. Never raises.

    One of the terms has to hold, all of its expressions and fields. An empty selector, an empty term, and a term that
    is not valid take no node.
    """
    if selector is None:
        return True
    return any(_term_holds(term, name, labels) for term in items(selector, "nodeSelectorTerms"))


def _term_holds(term: Json, name: str, labels: Mapping[str, str]) -> bool:
    expressions, fields = _listed(term, "matchExpressions"), _listed(term, "matchFields")
    if not expressions and not fields:
        return False
    return all(_expression_holds(item, labels) for item in expressions) and all(
        _field_holds(item, name) for item in fields
    )


def _listed(term: Json, name: str) -> list[object]:
    found = dig(term, name)
    if found is None:
        return []
    # What is not a list can hold for nothing: one requirement that fails.
    return found if isinstance(found, list) else [None]


def _expression_holds(item: object, labels: Mapping[str, str]) -> bool:
    key, operator, values = text(item, "key"), text(item, "operator"), texts(item, "values")
    if operator in ("Exists", "DoesNotExist"):
        return not values and (key in labels) is (operator == "Exists")
    if operator in ("In", "NotIn"):
        return bool(values) and (labels.get(key) in values) is (operator == "In")
    if operator in ("Gt", "Lt"):
        have, wanted = _integer(labels.get(key)), _integer(values[0]) if len(values) == 1 else None
        if have is None or wanted is None:
            return False
        return have > wanted if operator == "Gt" else have < wanted
    return False


def _field_holds(item: object, name: str) -> bool:
    operator, values = text(item, "operator"), texts(item, "values")
    # The name is the only field there is, and it is compared with exactly one value.
    if text(item, "key") != "metadata.name" or len(values) != 1:
        return False
    if operator == "In":
        return name == values[0]
    return operator == "NotIn" and name != values[0]


def _integer(value: str | None) -> int | None:
    return int(value) if value is not None and _INTEGER.fullmatch(value) else None
