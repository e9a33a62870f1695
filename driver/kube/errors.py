"""What goes wrong in talking to the API server: one type per decision that a caller takes."""

from fracgpu.driver.errors import FracgpuError


class ClusterError(FracgpuError):
    """Base of what goes wrong in talking to the API server."""


class NotFound(ClusterError):
    """The object is not there."""


class Conflict(ClusterError):
    """Someone else changed or created the object first: read it again."""


class Expired(Conflict):
    """The version or page asked for is no longer known: list again."""


class Refused(ClusterError):
    """The API server does not accept the request: rights, validation, admission."""


class Forbidden(Refused):
    """Our identity has no right to the request."""


class Immutable(Refused):
    """The API server sees a change of a field that may not change; re-encoding opaque parameters looks like one."""


class Unavailable(ClusterError):
    """The API server can not be reached, is overloaded or answers nonsense: try again later."""
