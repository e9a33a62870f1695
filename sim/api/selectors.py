"""Label and field selectors, parsed once and applied to JSON objects.

Grammar of labels: k8s.io/apimachinery/pkg/labels. Fields: equality only, on the fields that a real API server indexes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from fracgpu.sim.api.errors import ApiError, bad_request
from fracgpu.sim.api.objects import JsonObject, dig
from fracgpu.sim.api.resources import EVENTS, NODES, PODS, RESOURCE_SLICES, Resource

Predicate = Callable[[JsonObject], bool]

_FIELDS: dict[Resource, tuple[str, ...]] = {
    PODS: (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    NODES: ("spec.unschedulable",),
    RESOURCE_SLICES: ("spec.nodeName", "spec.driver"),
    EVENTS: (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
}
_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*(?P<absent_key>[\w./-]+)"
    r"|(?P<key>[\w./-]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)|(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)"
)


def parse_labels(text: str) -> Predicate:
    """Return the predicate of a label selector; an empty one matches all. Raises ApiError 400."""
    tests: list[Callable[[dict[str, str]], bool]] = []
    at = 0
    while at < len(text):
        match = _REQUIREMENT.match(text, at)
        if not match or match.end() == at:
            raise bad_request(f"unable to parse requirement: {text[at:]!r} in label selector {text!r}")
        tests.append(_label_test(match))
        at = match.end()

    def matches(obj: JsonObject) -> bool:
        labels = dig(obj, "metadata", "labels") or {}
        return all(test(labels) for test in tests)

    return matches


def _label_test(match: re.Match[str]) -> Callable[[dict[str, str]], bool]:
    if match["absent"]:
        absent = match["absent_key"]
        return lambda labels: absent not in labels
    key = match["key"]
    if match["op"]:
        value = match["value"]
        if match["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match["set"]:
        values = {item.strip() for item in match["values"].split(",")}
        if match["set"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    return lambda labels: key in labels


def parse_fields(resource: Resource, text: str) -> Predicate:
    """Return the predicate of a field selector. Raises ApiError 400 for a field that the resource does not index."""
    known = {"metadata.name", *_FIELDS.get(resource, ())} | ({"metadata.namespace"} if resource.namespaced else set())
    tests: list[tuple[tuple[str, ...], str, bool]] = []
    for part in filter(None, (item.strip() for item in text.split(","))):
        match = re.fullmatch(r"([\w.]+)\s*(==|=|!=)\s*(.*)", part)
        if not match:
            raise bad_request(f"invalid field selector {part!r}; can't understand it")
        if match[1] not in known:
            raise _unknown_field(resource, match[1])
        tests.append((tuple(match[1].split(".")), match[3].strip(), match[2] != "!="))

    def matches(obj: JsonObject) -> bool:
        return all((_field(obj, path) == value) == positive for path, value, positive in tests)

    return matches


def _unknown_field(resource: Resource, field: str) -> ApiError:
    if resource.is_custom:
        return bad_request(f"field label not supported: {field}")
    return bad_request(
        f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match field selector: '
        f'"{field}" is not a known field selector'
    )


def _field(obj: JsonObject, path: tuple[str, ...]) -> str:
    if path == ("source",):
        return str(dig(obj, "source", "component") or "")
    value = dig(obj, *path)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path[-1] == "unschedulable" else ""
    return str(value)
