"""Authentication, authorization and admission of one API server, loaded from the manifests that are shipped.

Without a bearer token every right is there: the emulator's own parts, and people who try it, are its administrators.
With one, a request is what its user may do. What was granted to users and what was refused them is remembered, so that
a test can say that a role is neither too large nor too small. Admission policies are for everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fracgpu.sim.api.claim_access import check_status_access
from fracgpu.sim.api.errors import ApiError, FieldError, forbidden
from fracgpu.sim.api.identity import Tokens, User
from fracgpu.sim.api.objects import JsonObject
from fracgpu.sim.api.policies import AdmissionPolicies, Lister
from fracgpu.sim.api.policy_meanings import Review
from fracgpu.sim.api.rbac import Attributes, Permission, RbacRules
from fracgpu.sim.api.requests import Target, is_true
from fracgpu.sim.api.resources import RESOURCE_CLAIMS, Resource

_ADMINISTRATOR = User("admin", frozenset({"system:masters", "system:authenticated"}))
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Access:
    """Who may do what. `used` and `refused` grow with every request that carries a token."""

    def __init__(self, manifests: Iterable[JsonObject] = ()) -> None:
        """Read roles, bindings and policies among `manifests`. Raises PolicyNotSupported."""
        objects = list(manifests)
        self.tokens = Tokens()
        self.rules = RbacRules(objects)
        self.policies = AdmissionPolicies(objects)
        self.used: set[Permission] = set()
        self.refused: list[str] = []
        self.objects: Lister = lambda _resource, _namespace: ()
        """Lists what policies take as parameters; the server that this belongs to sets it."""

    def guard(self, authorization: str | None, target: Target, method: str, query: Mapping[str, str]) -> Guard:
        """Return the guard of one request. Raises ApiError 401 or 403."""
        if not authorization:
            return Guard(self, _ADMINISTRATOR, _attributes(target, method, query))
        user = self.tokens.user_of(authorization)
        guard = Guard(self, user, _attributes(target, method, query))
        if not self.allows(user, guard.attributes):
            raise self.remember(forbidden_request(target, guard.attributes, user))
        return guard

    def allows(self, user: User, wanted: Attributes) -> bool:
        """Tell whether a role grants it, and remember which."""
        granted = self.rules.grant(user, wanted)
        if granted is not None:
            self.used.add(granted)
        return granted is not None

    def admit(self, review: Review) -> None:
        """Apply the admission policies. Raises ApiError 403 or 422."""
        try:
            self.policies.admit(review, self.objects)
        except ApiError as error:
            if review.user is not _ADMINISTRATOR:
                self.remember(error)
            raise

    def remember(self, error: ApiError) -> ApiError:
        """Note a refusal and return it."""
        self.refused.append(str(error))
        return error


class Guard:
    """What the registry asks about one request of one user before it stores anything."""

    def __init__(self, access: Access, user: User, attributes: Attributes) -> None:
        self._access = access
        self._user = user
        self.attributes = attributes

    def findings(
        self, resource: Resource, obj: JsonObject, old: JsonObject, *, refused_anyway: bool
    ) -> list[FieldError]:
        """Return what validation has to say about the user's rights to a change of a status."""
        if resource is not RESOURCE_CLAIMS or self._user is _ADMINISTRATOR:
            return []
        errors = check_status_access(
            obj,
            old,
            user=self._user,
            verb=self.attributes.verb,
            allowed=lambda wanted: self._access.allows(self._user, wanted),
        )
        if not refused_anyway:
            self._access.refused += [error.message for error in errors]
        return errors

    def mutate(self, operation: str, resource: Resource, obj: JsonObject) -> None:
        """Let the admission policies change what is to be written, in place."""
        self._access.policies.mutate(Review(self._user, operation, resource, obj))

    def admit(self, operation: str, resource: Resource, obj: JsonObject) -> None:
        """Apply the admission policies to a write. Raises ApiError 403 or 422."""
        self._access.admit(Review(self._user, operation, resource, obj))


def forbidden_request(target: Target, attributes: Attributes, user: User) -> ApiError:
    """403: the user's roles do not grant the request."""
    text = attributes.refusal(user)
    if target.name:
        return forbidden(target.resource, target.name, text)
    return ApiError(
        403, "Forbidden", f"{target.resource.qualified} is forbidden: {text}", {"kind": target.resource.plural}
    )


def _attributes(target: Target, method: str, query: Mapping[str, str]) -> Attributes:
    verb = _VERBS.get(method) or ("watch" if is_true(query, "watch") else "get" if target.name else "list")
    if verb == "delete" and not target.name:
        verb = "deletecollection"
    return Attributes(
        verb=verb,
        group=target.resource.group,
        resource=target.resource.plural + (f"/{target.subresource}" if target.subresource else ""),
        namespace=target.namespace,
        name=target.name,
    )
