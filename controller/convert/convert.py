"""One object translated: the pods of a workload ask for claims instead of a device plugin's resources.

All or nothing: a pod that asked for one GPU by claim and for another from a device plugin would be served by two owners
of the same cards, so an object of which something has no translation stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from fracgpu.controller.convert.ask import MAX_DEVICES, Ask, foreign_resources, read_ask
from fracgpu.controller.convert.claims import MAX_ALTERNATIVES, build_template, needs_cards, percent_of_card
from fracgpu.controller.convert.edits import Append, Edit, Json, Path, Remove
from fracgpu.controller.convert.findings import Finding, Findings, Malformed
from fracgpu.controller.convert.kinds import known_kinds, mentioned_resources, pod_path
from fracgpu.controller.convert.options import ConvertOptions
from fracgpu.controller.convert.placement import read_wishes
from fracgpu.controller.convert.residue import clean_container, clean_pod

_ONLY_REQUEST: Final = "gpu"
_CLAIM: Final = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What is to be done to an object, and what to be said of it. `template` is the claim template that it needs."""

    edits: tuple[Edit, ...] = ()
    template: Json | None = None
    findings: tuple[Finding, ...] = ()


def convert(obj: Json, options: ConvertOptions) -> Conversion:
    """Return how to translate one object (no `List`). The object is not changed; a refusal means: no edits."""
    meta = obj.get("metadata")
    name = meta.get("name") or meta.get("generateName") if isinstance(meta, dict) else None
    findings = Findings(f"{obj.get('kind')} {name or '(no name)'}")
    path = pod_path(obj)
    if path is None:
        _refuse_other_kind(obj, findings)
        return Conversion(findings=tuple(findings.found))
    try:
        edits, template = _PodTranslation(obj, path, options, findings).run()
    except Malformed as error:
        findings.refuse(f"{error.subject} {error.what}; {error.remedy}")
        edits, template = (), None
    if findings.refused:
        edits, template = (), None
    return Conversion(edits=edits, template=template, findings=tuple(findings.found))


def _refuse_other_kind(obj: Json, findings: Findings) -> None:
    names = mentioned_resources(obj)
    if not names:
        return
    if obj.get("kind") == "ResourceQuota":
        findings.refuse(f"{', '.join(names)}: claims are not counted by them; write a FractionQuota")
    else:
        remedy = f"pods of {known_kinds()} are; translate the pod inside by hand"
        findings.refuse(f"asks for {', '.join(names)}, and this kind is not known; {remedy}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Container:
    """A container, where it is (from the root of the object), and whether it has ended before others start."""

    path: Path
    body: Json
    name: str
    passing: bool


class _PodTranslation:
    """The pod, or the pod template, at `path` of an object."""

    def __init__(self, obj: Json, path: Path, options: ConvertOptions, findings: Findings) -> None:
        self._obj = obj
        self._path = path
        self._options = options
        self._findings = findings

    def run(self) -> tuple[tuple[Edit, ...], Json | None]:
        """Return edits and template; they count only if nothing was refused. Raises Malformed."""
        pod: Any = self._obj
        for step in self._path:
            pod = _mapping(pod.get(step), ".".join(map(str, self._path)))
        spec = _mapping(pod.get("spec"), "spec")
        containers = list(self._containers(spec))
        asking = [container for container in containers if foreign_resources(container.body.get("resources") or {})]
        edits: list[Edit] = list(clean_pod(pod, self._path, self._findings, uses_gpus=bool(asking)))
        if not asking:
            return tuple(edits), None
        asks = self._asks(asking)
        for container in asking:
            edits += self._without_resources(container)
            edits += clean_container(
                container.body, container.path, self._findings.about(f"container {container.name}")
            )
        meta = pod.get("metadata")
        annotations = _mapping(meta.get("annotations") or {}, "annotations") if isinstance(meta, dict) else {}
        wishes = read_wishes(annotations, self._options.allocator, self._findings)
        if not asks or self._findings.refused:
            return tuple(edits), None
        requests, users = self._requests(asks)
        self._check(requests)
        own = self._obj.get("metadata")
        namespace = own.get("namespace") if isinstance(own, dict) else None
        template = build_template(requests, wishes, self._options, namespace)
        edits += self._claims(spec, str(template["metadata"]["name"]), users, several=len(requests) > 1)
        return tuple(edits), template

    def _containers(self, spec: Json) -> Iterator[_Container]:
        """Yield the pod's containers: first those that run together, then those that pass before."""
        found = []
        for part in ("containers", "initContainers"):
            items = spec.get(part) or []
            if not isinstance(items, list):
                raise Malformed(f"spec.{part}", "is not a list", remedy="correct the manifest")
            for position, item in enumerate(items):
                body = _mapping(item, f"spec.{part}[{position}]")
                passing = part == "initContainers" and body.get("restartPolicy") != "Always"
                path = (*self._path, "spec", part, position)
                resources = _mapping(body.get("resources") or {}, f"spec.{part}[{position}].resources")
                for side in ("limits", "requests"):
                    _mapping(resources.get(side) or {}, f"spec.{part}[{position}].resources.{side}")
                found.append(_Container(path=path, body=body, name=str(body.get("name", position)), passing=passing))
        return iter(sorted(found, key=lambda container: container.passing))

    def _asks(self, asking: list[_Container]) -> list[tuple[_Container, Ask]]:
        asks = []
        for container in asking:
            findings = Findings(f"{self._findings.subject}, container {container.name}")
            ask = read_ask(container.body["resources"], self._options, findings)
            self._findings.found.extend(findings.found)
            if ask is not None:
                asks.append((container, ask))
        return asks

    def _requests(self, asks: list[tuple[_Container, Ask]]) -> tuple[dict[str, Ask], list[tuple[_Container, str]]]:
        """Return the requests by name, and which container uses which.

        An init container that has ended leaves its GPU to those that start later, so it takes the request of one that
        asks for the same.
        """
        requests: dict[str, Ask] = {}
        users: list[tuple[_Container, str]] = []
        for container, ask in asks:
            same = next((name for name, other in requests.items() if other == ask), None) if container.passing else None
            if same is None:
                same = container.name
                requests[same] = ask
                if container.passing:
                    self._findings.about(f"container {container.name}").note(
                        "no later container asks for the same, so its GPU is held as long as the pod lives; "
                        "give it the amounts of one that does the work"
                    )
            users.append((container, same))
        if len(requests) == 1:
            return {_ONLY_REQUEST: next(iter(requests.values()))}, [(user, _ONLY_REQUEST) for user, _ in users]
        return requests, users

    def _check(self, requests: dict[str, Ask]) -> None:
        devices = sum(ask.count for ask in requests.values())
        if devices > MAX_DEVICES:
            self._findings.refuse(f"asks for {devices} GPUs, and a claim can have {MAX_DEVICES}; use several pods")
        percents = {ask.memory_percent or 0 for ask in requests.values() if needs_cards(ask)}
        if self._options.allocator == "controller" or not percents:
            return
        cards = self._options.card_mib
        text = f"memory in percent ({', '.join(map(str, sorted(percents)))})"
        if not cards:
            self._findings.refuse(
                f"{text}: kube-scheduler needs the sizes of the cards; give --cards 'NVIDIA L4=23034Mi'"
            )
        elif len(cards) > MAX_ALTERNATIVES:
            self._findings.refuse(f"{text}: {len(cards)} sizes of cards, and a request has {MAX_ALTERNATIVES} at most")
        elif not all(any(percent_of_card(card, percent) for card in cards) for percent in percents):
            self._findings.refuse(f"{text}: less than 1 MiB of every card; ask for more")

    @staticmethod
    def _without_resources(container: _Container) -> Iterator[Edit]:
        resources = container.body["resources"]
        foreign = set(foreign_resources(resources))
        for side in ("limits", "requests"):
            stated = resources.get(side) or {}
            gone = [name for name in stated if name in foreign]
            if gone and len(gone) == len(stated):
                yield Remove((*container.path, "resources", side))
                continue
            for name in gone:
                yield Remove((*container.path, "resources", side, name))

    def _claims(
        self, spec: Json, template: str, users: list[tuple[_Container, str]], *, several: bool
    ) -> Iterator[Edit]:
        taken = {claim.get("name") for claim in spec.get("resourceClaims") or [] if isinstance(claim, dict)}
        numbered = (f"{_CLAIM}-{number}" for number in range(2, len(taken) + 3))
        claim = _CLAIM if _CLAIM not in taken else next(name for name in numbered if name not in taken)
        for container, request in users:
            entry = {"name": claim, "request": request} if several else {"name": claim}
            yield Append((*container.path, "resources", "claims"), entry)
        reference = {"name": claim, "resourceClaimTemplateName": template}
        yield Append((*self._path, "spec", "resourceClaims"), reference)


def _mapping(value: Any, where: str) -> Json:
    if not isinstance(value, dict):
        raise Malformed(where, "is missing or not an object", remedy="correct the manifest")
    return value
