"""The scopes that a unit of work may run in, as values.

PostgreSQL's row level security decides which rows a scope sees. `webapp.db.session` enters the
scope when a transaction begins.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha256
from uuid import UUID


@dataclass(frozen=True)
class TenantScope:
    """The rows of one tenant, for its own members or for an elevated access."""

    tenant_id: UUID

    @cached_property
    def visibility(self) -> str:
        """A text that only scopes with the same visible rows share; a part of cache keys."""
        return f"tenant:{self.tenant_id}"

    @property
    def tag(self) -> str:
        """The name of the scope's rows in cache tags, which a change of them invalidates."""
        return self.visibility


@dataclass(frozen=True)
class Exclusion:
    """The tenants that a global access excludes.

    Accesses that exclude the same tenants share one object: a thousand ids are formatted once, not
    for each access.
    """

    tenants: frozenset[UUID] = frozenset()

    @cached_property
    def ids(self) -> tuple[UUID, ...]:
        return tuple(sorted(self.tenants))

    @cached_property
    def setting(self) -> str:
        """The ids, written as the policies of row level security read them."""
        return ",".join(map(str, self.ids))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of `setting` in hex, by which events name the set."""
        return sha256(self.setting.encode()).hexdigest()

    @cached_property
    def visibility(self) -> str:
        """A text that only exclusions of the same tenants share."""
        if not self.tenants:
            return "global"
        digest = blake2b(digest_size=16)
        for tenant_id in self.ids:
            digest.update(tenant_id.bytes)
        return f"global-{digest.hexdigest()}"


NO_EXCLUSION = Exclusion()


@dataclass(frozen=True)
class GlobalScope:
    """The rows of the platform and of every tenant that the access does not exclude."""

    access_id: UUID
    """The id of the access's audit event. Without an id the database shows no row at all."""
    excluded: Exclusion = NO_EXCLUSION

    @property
    def visibility(self) -> str:
        return self.excluded.visibility

    @property
    def tag(self) -> str:
        """The name of all rows in cache tags, which a change of any row invalidates."""
        return "global"


@dataclass(frozen=True)
class IdentityScope:
    """Principals, memberships and tokens, for authentication. Nothing can be changed."""

    visibility: str = "identity"


@dataclass(frozen=True)
class DirectoryScope:
    """Tenants, principals, memberships and tokens, for their administration."""

    visibility: str = "directory"


@dataclass(frozen=True)
class LedgerScope:
    """The ledger, for appending audit events. Nothing else is visible."""

    visibility: str = "ledger"


@dataclass(frozen=True)
class RelayScope:
    """The ids and digests of events, for a process that asks which of its own are committed."""

    visibility: str = "relay"


@dataclass(frozen=True)
class PolicyScope:
    """Every rule and every grant, for reading: decisions are made from them."""

    visibility: str = "policy"


@dataclass(frozen=True)
class PrincipalScope:
    """The requests and grants that a principal holds, or decides about."""

    principal_id: UUID
    administers: frozenset[UUID] = frozenset()
    """The tenants whose admin the principal is."""
    staff: bool = False
    """Whether the principal has a role on the platform, and may have to decide about any grant."""

    @property
    def visibility(self) -> str:
        tenants = ",".join(map(str, sorted(self.administers)))
        return f"principal:{self.principal_id}:{tenants}:{'staff' if self.staff else ''}"


@dataclass(frozen=True)
class MaintenanceScope:
    """Grants and notices, for the tasks that expire grants, send notices and record that."""

    visibility: str = "expiry"


@dataclass(frozen=True)
class SealingScope:
    """The queue of events that wait to be sealed, the events themselves, and the log, to grow."""

    visibility: str = "sealing"


@dataclass(frozen=True)
class LogScope:
    """The log as anybody may read it: entries, tiles and checkpoints."""

    visibility: str = "log"


Scope = (
    TenantScope
    | GlobalScope
    | IdentityScope
    | DirectoryScope
    | LedgerScope
    | RelayScope
    | PolicyScope
    | PrincipalScope
    | MaintenanceScope
    | SealingScope
    | LogScope
)
