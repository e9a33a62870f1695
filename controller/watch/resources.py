"""Which resources the controller watches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fracgpu.driver.names import API_VERSION


@dataclass(frozen=True, slots=True)
class Watched:
    """A resource: `plural` is its name in news, `path` where all its objects are.

    An `optional` one may be unknown to the API server: it has no objects then.
    """

    plural: str
    path: str
    optional: bool = False


_DRA: Final = "/apis/resource.k8s.io/v1"
WATCHED: Final = (
    Watched("nodes", "/api/v1/nodes"),
    Watched("resourceslices", f"{_DRA}/resourceslices"),
    Watched("deviceclasses", f"{_DRA}/deviceclasses"),
    Watched("resourceclaims", f"{_DRA}/resourceclaims"),
    Watched("pods", "/api/v1/pods"),
    Watched("fractionquotas", f"/apis/{API_VERSION}/fractionquotas", optional=True),
)
