"""FractionQuotas that the definition of deploy/ lets through or refuses, and claims that their policy does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE
from tests.deploy.servers import Answer, Requests

Json = dict[str, Any]
API_VERSION: Final = "gpu.fracgpu.dev/v1alpha1"
KIND: Final = "FractionQuota"
_CLAIMS: Final = "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims"
_QUOTAS: Final = "/apis/gpu.fracgpu.dev/v1alpha1/namespaces/{}/fractionquotas"
NO_STATUS: Final = "has no status yet, so what is left of it is not known; the controller of fracgpu writes it"
_NAMES: Final = "spec.hard: Invalid value: no such name: write memory, cores or slots"
_QUANTITIES: Final = "spec.hard: Invalid value: write quantities that are not negative: memory in bytes like 64Gi"
_BLOCKED: Final = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Schema:
    """One FractionQuota to be created, or its status to be replaced; `refusal` are parts of the message."""

    name: str
    body: Json
    refusal: tuple[str, ...] = ()
    code: int = 422
    strict: bool = False
    of_status: bool = False

    def __str__(self) -> str:
        """Return the name, for test ids."""
        return self.name


def _hard(**limits: Any) -> Json:
    return {"spec": {"hard": limits}}


def _status(**members: Any) -> Json:
    return {"status": members}


def _condition(**members: Any) -> Json:
    good = {"type": "Valid", "status": "True", "reason": "Understood", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return _status(conditions=[{key: value for key, value in (good | members).items() if value is not None}])


SCHEMA: Final = [
    Schema("all names", _hard(memory="64Gi", cores=200, slots="8")),
    Schema("fractions of a unit", _hard(memory="1.5Gi", cores="1500m")),
    Schema("nothing allowed", _hard(memory="0", cores=0)),
    Schema("larger than the API's numbers", _hard(memory="10E")),
    Schema("misspelt name", _hard(mem="64Gi"), (_NAMES,)),
    Schema("misspelt name beside a bad amount", _hard(mem="64Gi", memory="x"), (_NAMES, _QUANTITIES)),
    Schema("no quantity", _hard(memory="much"), (_QUANTITIES,)),
    Schema("negative", _hard(cores=-1), (_QUANTITIES,)),
    Schema("negative text", _hard(cores="-1m"), (_QUANTITIES,)),
    Schema("number with a fraction", _hard(cores=1.5), ('"number": spec.hard.cores in body must be of type', _BLOCKED)),
    Schema("truth value", _hard(slots=True), ('"boolean": spec.hard.slots in body must be of type integer', _BLOCKED)),
    Schema(
        "long text", _hard(memory="1" * 65), ("spec.hard.memory: Too long: may not be more than 64 bytes", _BLOCKED)
    ),
    Schema(
        "too many names", _hard(memory=1, cores=1, slots=1, gpus=1), ("spec.hard: Too many: 4: must have", _BLOCKED)
    ),
    Schema("no limits", _hard(), ("spec.hard: Invalid value: 0: spec.hard in body should have at least 1 properties",)),
    Schema("null", _hard(memory=None), ("spec.hard in body should have at least 1 properties",)),
    Schema("text for limits", {"spec": {"hard": "64Gi"}}, ("spec.hard in body must be of type object", _BLOCKED)),
    Schema("no hard", {"spec": {}}, ("spec.hard: Required value", _BLOCKED)),
    Schema("no spec", {}, ("spec: Required value", _BLOCKED)),
    Schema("unknown member", {"spec": {"hard": {"memory": "1Gi"}, "soft": {}}}),
    Schema(
        "unknown member, strictly",
        {"spec": {"hard": {"memory": "1Gi"}, "soft": {}}},
        ('strict decoding error: unknown field "spec.soft"',),
        code=400,
        strict=True,
    ),
    Schema("status of a new one", _hard(memory="1Gi") | _status(enforcedAt="Admission")),
    Schema("use", _status(used={"memory": "1Gi", "cores": "0"}, observedGeneration=1), of_status=True),
    Schema("unknown member of a status", _status(free={"memory": "1Gi"}), of_status=True),
    Schema("condition", _condition(), of_status=True),
    Schema(
        "another way of enforcement",
        _status(enforcedAt="Never"),
        ('status.enforcedAt: Unsupported value: "Never": supported values: "Allocation", "Admission"', _BLOCKED),
        of_status=True,
    ),
    Schema(
        "condition without a reason",
        _condition(reason=None),
        ("status.conditions[0].reason: Required value", _BLOCKED),
        of_status=True,
    ),
    Schema(
        "condition at no time",
        _condition(lastTransitionTime="now"),
        ("conditions[0].lastTransitionTime in body must be of type date-time", _BLOCKED),
        of_status=True,
    ),
    Schema(
        "two conditions of one type",
        _status(conditions=_condition()["status"]["conditions"] * 2),
        ('status.conditions[1]: Duplicate value: {"type":"Valid"}',),
        of_status=True,
    ),
]


def ask_schema(admin: Requests, case: Schema, namespace: str) -> Answer:
    """Make the call of a case; what it creates is removed again."""
    path = _QUOTAS.format(namespace)
    envelope = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "q"}}
    if not case.of_status:
        query = "?dryRun=All" + ("&fieldValidation=Strict" if case.strict else "")
        return admin.send("POST", path + query, envelope | case.body)
    created = admin.send("POST", path, envelope | _hard(memory="1Gi"))
    assert created.code == 201, created.raw
    try:
        return admin.send("PUT", f"{path}/q/status", created.body | case.body)
    finally:
        assert admin.send("DELETE", f"{path}/q").code == 200


@dataclass(frozen=True)
class Stage:
    """A namespace with its quotas: name to limits, with the status that the controller has written."""

    name: str
    hard: Mapping[str, Json] = field(default_factory=dict)
    status: Mapping[str, Json] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The namespace's name."""
        return f"quota-{self.name.replace(' ', '-')}"


@dataclass(frozen=True)
class Case:
    """A claim that is to be created on a stage; `refusal` is all that the policy says, empty if it lets it pass."""

    stage: Stage
    name: str
    requests: tuple[Json, ...]
    refusal: str = ""

    def __str__(self) -> str:
        """Return both names, for test ids."""
        return f"{self.stage.name}: {self.name}"


def _used(memory: str, cores: str, slots: str, **more: Any) -> Json:
    return {"enforcedAt": "Admission", "used": {"memory": memory, "cores": cores, "slots": slots}} | more


def _asks(device_class: str = CLASS_FRACTION, *, amounts: Mapping[str, Any] = _NOTHING, **more: Any) -> Json:
    return {"exactly": {"deviceClassName": device_class, "capacity": {"requests": dict(amounts)}} | more}


def _memory(amount: str, **more: Any) -> Json:
    return _asks(amounts={"memory": amount}, **more)


def _prefers(*alternatives: Json) -> Json:
    parts = [one["exactly"] | {"name": f"n{index}"} for index, one in enumerate(alternatives)]
    return {"firstAvailable": parts}


WITHIN: Final = Stage("within", {"q": {"memory": "64Gi", "cores": 200, "slots": "8"}}, {"q": _used("56Gi", "190", "7")})
FRACTION: Final = Stage("fraction", {"q": {"memory": "1.5Gi"}}, {"q": _used("1Gi", "500", "9")})
SLOTS: Final = Stage("slots", {"q": {"slots": 8}}, {"q": _used("56Gi", "190", "7")})
EXCEEDED: Final = Stage("exceeded", {"q": {"cores": 100, "memory": "8Gi"}}, {"q": _used("1Gi", "130", "2")})
UNKNOWN: Final = Stage("unknown", {"q": {"memory": "64Gi"}})
_BAD: Final = {
    "type": "Valid",
    "status": "False",
    "reason": "QuotaInvalid",
    "message": "spec.hard.memory is odd; mend it",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
UNREADABLE: Final = Stage("unreadable", {"q": {"memory": "64Gi"}}, {"q": _used("0", "0", "0", conditions=[_BAD])})
ALLOCATION: Final = Stage(
    "allocation",
    {"q": {"memory": "1Gi", "cores": 1, "slots": 0}},
    {"q": _used("2Gi", "0", "0", conditions=[_BAD]) | {"enforcedAt": "Allocation"}},
)
TWO: Final = Stage(
    "two",
    {"ample": {"memory": "640Gi"}, "scarce": {"memory": "8Gi"}},
    {"ample": _used("4Gi", "0", "1"), "scarce": _used("4Gi", "0", "1")},
)
NONE: Final = Stage("none")
STAGES: Final = (WITHIN, FRACTION, SLOTS, EXCEEDED, UNKNOWN, UNREADABLE, ALLOCATION, TWO, NONE)


def _left(*parts: str, quota: str = "q") -> str:
    return f"FractionQuota {quota} has too little left: " + "; ".join(parts)


def _unstated(names: str) -> str:
    return (
        f"FractionQuota q limits {names}, so claims have to say how much they want: state it in capacity.requests of "
        "every request, in whole numbers, and ask for a count of devices, not for all"
    )


_SLOTS_2: Final = "slots: asked 2, used 7 of 8"
CASES: Final = [
    Case(WITHIN, "what is left", (_memory("8Gi"),)),
    Case(
        WITHIN,
        "one byte more is one MiB more",
        (_memory("8589934593"),),
        _left("memory: asked 8193Mi, used 57344Mi of 65536Mi"),
    ),
    Case(
        WITHIN,
        "everything too much",
        (_asks(amounts={"memory": "9Gi", "cores": "11", "slots": "2"}),),
        _left("memory: asked 9216Mi, used 57344Mi of 65536Mi", "cores: asked 11, used 190 of 200", _SLOTS_2),
    ),
    Case(
        WITHIN,
        "requests add up",
        (_memory("5Gi"), _memory("5Gi")),
        _left("memory: asked 10240Mi, used 57344Mi of 65536Mi", _SLOTS_2),
    ),
    Case(
        WITHIN,
        "devices add up, each rounded",
        (_memory("1073741825", count=8),),
        _left("memory: asked 8200Mi, used 57344Mi of 65536Mi", "slots: asked 8, used 7 of 8"),
    ),
    Case(
        WITHIN,
        "of alternatives the worst of each amount",
        (
            _prefers(
                _asks(amounts={"memory": "2Gi", "cores": "50"}),
                _memory("5Gi", count=2),
                _asks("gpu.example.com", amounts={"memory": "99Gi"}),
            ),
        ),
        _left("memory: asked 10240Mi, used 57344Mi of 65536Mi", "cores: asked 50, used 190 of 200", _SLOTS_2),
    ),
    Case(WITHIN, "alternatives that fit", (_prefers(_memory("8Gi"), _memory("4Gi"), _asks("gpu.example.com")),)),
    Case(WITHIN, "no memory", (_asks(),), _unstated("memory")),
    Case(WITHIN, "a whole GPU", (_asks(CLASS_WHOLE, amounts={"cores": "999"}),), _unstated("memory")),
    Case(WITHIN, "an alternative without memory", (_prefers(_memory("1Gi"), _asks()),), _unstated("memory")),
    Case(WITHIN, "all devices", (_memory("1Mi", allocationMode="All"),), _unstated("memory, cores, slots")),
    Case(WITHIN, "half a percent", (_asks(amounts={"memory": "1Gi", "cores": "500m"}),), _unstated("cores")),
    Case(
        WITHIN,
        "less than nothing makes no room",
        (_asks(amounts={"memory": "1Gi", "cores": "-1000"}), _asks(amounts={"memory": "1Gi", "cores": "11"})),
        _left("cores: asked 11, used 190 of 200", _SLOTS_2),
    ),
    Case(
        WITHIN,
        "a class of the administrator's by our name",
        (_asks("team.gpu.fracgpu.dev", amounts={"memory": "9Gi"}),),
        _left("memory: asked 9216Mi, used 57344Mi of 65536Mi"),
    ),
    Case(WITHIN, "a name that only looks like ours", (_asks("mygpu.fracgpu.dev", amounts={"memory": "9Gi"}),)),
    Case(WITHIN, "somebody else's class", (_asks("gpu.example.com", allocationMode="All"),)),
    Case(WITHIN, "admin access", (_memory("99Gi", adminAccess=True, allocationMode="All"),)),
    Case(WITHIN, "nothing", ()),
    Case(
        WITHIN,
        "more than there can be",
        (_asks(amounts={"memory": "7E", "cores": "7E", "slots": "7E"}, count=2**62),) * 32,
        _left(
            f"memory: asked {33 * 32 * 2**30}Mi, used 57344Mi of 65536Mi",
            f"cores: asked {33 * 32 * 2**50}, used 190 of 200",
            f"slots: asked {33 * 32 * 2**50}, used 7 of 8",
        ),
    ),
    Case(
        WITHIN,
        "as many alternatives as there can be",
        (_prefers(*[_asks(amounts={"memory": "1Gi", "cores": "1", "slots": "1"})] * 8),) * 32,
        _left(
            "memory: asked 32768Mi, used 57344Mi of 65536Mi",
            "cores: asked 32, used 190 of 200",
            "slots: asked 32, used 7 of 8",
        ),
    ),
    Case(FRACTION, "fits", (_memory("512Mi"),)),
    Case(FRACTION, "does not fit", (_memory("513Mi"),), _left("memory: asked 513Mi, used 1024Mi of 1536Mi")),
    Case(FRACTION, "what is not limited", (_asks(amounts={"memory": "1Mi", "cores": "100", "slots": "1"}),)),
    Case(SLOTS, "memory need not be said", (_asks(),)),
    Case(SLOTS, "too many", (_asks(count=2),), _left(_SLOTS_2)),
    Case(EXCEEDED, "nothing of what is exceeded", (_memory("1Gi"),)),
    Case(
        EXCEEDED,
        "more of what is exceeded",
        (_asks(amounts={"memory": "1Gi", "cores": "1"}),),
        _left("cores: asked 1, used 130 of 100"),
    ),
    Case(
        UNKNOWN,
        "a claim of ours",
        (_memory("1Gi"),),
        f"FractionQuota q {NO_STATUS}: see whether that runs, and try again",
    ),
    Case(UNKNOWN, "a claim of others", (_asks("gpu.example.com"),)),
    Case(
        UNREADABLE,
        "a claim of ours",
        (_memory("1Gi"),),
        "FractionQuota q cannot be understood: spec.hard.memory is odd; mend it",
    ),
    Case(UNREADABLE, "admin access", (_asks(adminAccess=True),)),
    Case(ALLOCATION, "the controller decides", (_memory("8Gi"), _asks(allocationMode="All"))),
    Case(TWO, "what both have left", (_memory("4Gi"),)),
    Case(
        TWO,
        "what one has left",
        (_memory("5Gi"),),
        _left("memory: asked 5120Mi, used 4096Mi of 8192Mi", quota="scarce"),
    ),
    Case(NONE, "no limit", (_asks(allocationMode="All"), _memory("999Gi"))),
]


def set_stage(admin: Requests, stage: Stage, wait: Callable[[Callable[[], object]], None]) -> None:
    """Make namespace and quotas; `wait` waits until a condition is true: policies learn of their parameters later."""
    labels = {"resource.kubernetes.io/admin-access": "true"}
    answer = admin.send("POST", "/api/v1/namespaces", {"metadata": {"name": stage.namespace, "labels": labels}})
    assert answer.code in (201, 409), answer.raw
    path = _QUOTAS.format(stage.namespace)
    for name, limits in stage.hard.items():
        body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}, "spec": {"hard": limits}}
        created = admin.send("POST", path, body)
        assert created.code == 201, created.raw
        wait(lambda: NO_STATUS in _probe(admin, stage))
        if name in stage.status:
            written = admin.send("PUT", f"{path}/{name}/status", created.body | {"status": stage.status[name]})
            assert written.code == 200, written.raw
            wait(lambda: NO_STATUS not in _probe(admin, stage))


def create(admin: Requests, case: Case) -> Answer:
    """Try to create the claim; nothing is stored."""
    return admin.send("POST", f"{_CLAIMS.format(case.stage.namespace)}?dryRun=All", _claim(case.requests))


def refusal_of(answer: Answer) -> str:
    """Return what the quota's policy says, empty if it lets the claim pass."""
    if answer.code == 201:
        return ""
    assert (answer.code, answer.body["reason"]) == (403, "Forbidden"), answer.raw
    before, _, text = str(answer.body["message"]).partition(" denied request: ")
    assert "ValidatingAdmissionPolicy 'fracgpu-quota' with binding 'fracgpu-quota'" in before
    return text


def _probe(admin: Requests, stage: Stage) -> str:
    return refusal_of(create(admin, Case(stage, "probe", (_memory("1Mi"),))))


def _claim(requests: tuple[Json, ...]) -> bytes:
    named = [request | {"name": f"r{index}"} for index, request in enumerate(requests)]
    return json.dumps({"metadata": {"name": "a"}, "spec": {"devices": {"requests": named}}}).encode()
