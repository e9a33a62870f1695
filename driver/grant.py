"""FractionGrant: the amounts that our controller granted, result by result.

It rides in the allocation itself, so that Prepare has the amounts even where the API server drops consumedCapacity.
Only an entry with source FromClass counts: that list entry is written by the allocator, whereas anyone who may create
a claim can put a grant into the claim's own configuration.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, ValidationError

from fracgpu.driver.errors import GrantInvalid
from fracgpu.driver.names import GRANT_KIND
from fracgpu.driver.parameters import Source, StrictModel, close_envelope, describe_failure, open_envelope

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Name = Annotated[str, Field(min_length=1)]


class GrantResult(StrictModel):
    """Amounts of one allocation result; `ordinal` is its position among all results of the claim.

    `memory_bytes` in bytes, `cores` in percent of one GPU, `slots` in sharers.
    """

    request: Name
    pool: Name
    device: Name
    ordinal: Count
    memory_bytes: Count
    cores: Count
    slots: Count


class FractionGrant(StrictModel):
    """All results of one claim that our controller granted."""

    results: Annotated[tuple[GrantResult, ...], Field(strict=False)]

    def find(self, *, request: str, pool: str, device: str, ordinal: int) -> GrantResult | None:
        """Return the grant of exactly this result (request as the result names it, with any `/sub`), or None."""
        wanted = (request, pool, device, ordinal)
        return next((r for r in self.results if (r.request, r.pool, r.device, r.ordinal) == wanted), None)

    def to_parameters(self) -> dict[str, object]:
        """Return the opaque parameters of this grant, with apiVersion and kind; encode with canonical_json."""
        return close_envelope({"results": [r.model_dump(by_alias=True) for r in self.results]}, kind=GRANT_KIND)


_ALLOWED: Final = {
    "results": "a list of results",
    "results.request": "a request name",
    "results.pool": "a pool name",
    "results.device": "a device name",
    "results.ordinal": "an integer >= 0",
    "results.memoryBytes": "an integer >= 0",
    "results.cores": "an integer >= 0",
    "results.slots": "an integer >= 0",
}


def is_grant(parameters: object) -> bool:
    """Whether decoded opaque parameters call themselves a FractionGrant (whatever else is wrong with them)."""
    return isinstance(parameters, dict) and parameters.get("kind") == GRANT_KIND


def parse_grant(parameters: object, *, source: Source) -> FractionGrant:
    """Return the grant in decoded opaque parameters.

    Raises GrantInvalid for source FromClaim, another kind or version, unknown or missing fields, wrong types, and two
    results of one ordinal.
    """
    if source != "FromClass":
        what = "comes from the claim, where anyone can write one"
        raise GrantInvalid(GRANT_KIND, what, remedy="remove it from spec.devices.config; the allocator grants")
    fields = open_envelope(parameters, kind=GRANT_KIND, error=GrantInvalid)
    try:
        grant = FractionGrant.model_validate(fields, by_alias=True, by_name=False)
    except ValidationError as failure:
        raise describe_failure(failure, kind=GRANT_KIND, allowed=_ALLOWED, error=GrantInvalid) from failure
    ordinals = [result.ordinal for result in grant.results]
    if len(set(ordinals)) != len(ordinals):
        what = f"ordinals {ordinals} are not distinct"
        raise GrantInvalid(f"{GRANT_KIND} field results", what, remedy="grant each result once")
    return grant
