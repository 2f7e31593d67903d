"""The scopes a unit of work may run in. Values only: which rows each one sees is PostgreSQL's
row level security, entered by `webapp.db.session` when a transaction begins."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from uuid import UUID


@dataclass(frozen=True)
class TenantScope:
    """One tenant's rows, its own principal's or a foreign one's."""

    tenant_id: UUID

    @cached_property
    def visibility(self) -> str:
        """What distinguishes the rows seen from those of any other scope; part of cache keys."""
        return f"tenant:{self.tenant_id}"

    @property
    def tag(self) -> str:
        """Names the rows whose change ends what this scope has cached."""
        return self.visibility


@lru_cache(4096)
def tenant_scope(tenant_id: UUID) -> TenantScope:
    """The same one each time, which remembers how it is written."""
    return TenantScope(tenant_id)


@dataclass(frozen=True)
class Exclusion:
    """The tenants that an access to all of them leaves out.

    A thousand of them are not written out for each access: accesses that leave out the same share
    one.
    """

    tenants: frozenset[UUID] = frozenset()

    @cached_property
    def ids(self) -> tuple[UUID, ...]:
        return tuple(sorted(self.tenants))

    @cached_property
    def setting(self) -> str:
        """As the policies of row level security read it."""
        return ",".join(map(str, self.ids))

    @cached_property
    def visibility(self) -> str:
        """The same for two accesses that see the same tenants, and for no other."""
        if not self.tenants:
            return "global"
        digest = blake2b(digest_size=16)
        for tenant_id in self.ids:
            digest.update(tenant_id.bytes)
        return f"global-{digest.hexdigest()}"


NO_EXCLUSION = Exclusion()


@dataclass(frozen=True)
class GlobalScope:
    """The platform's rows and every tenant's, but for those left out of the access."""

    access_id: UUID
    """The audit event's id. Without one the database shows no row at all."""
    excluded: Exclusion = NO_EXCLUSION

    @property
    def visibility(self) -> str:
        return self.excluded.visibility

    @property
    def tag(self) -> str:
        """Names the rows whose change ends what this scope has cached: anybody's."""
        return "global"


@dataclass(frozen=True)
class IdentityScope:
    """Principals, memberships and tokens: to find out who is asking, and to administer them."""

    visibility: str = "identity"


@dataclass(frozen=True)
class LedgerScope:
    """May append audit events and see nothing else."""

    visibility: str = "ledger"


@dataclass(frozen=True)
class PolicyScope:
    """Every rule and every grant, to read: what decisions are made of, before there is one."""

    visibility: str = "policy"


@dataclass(frozen=True)
class PrincipalScope:
    """What concerns a principal: the own requests and grants, and those to decide about."""

    principal_id: UUID
    administers: frozenset[UUID] = frozenset()
    """The tenants whose admin it is."""
    staff: bool = False
    """Whether it has a role on the platform."""

    @property
    def visibility(self) -> str:
        tenants = ",".join(map(str, sorted(self.administers)))
        return f"principal:{self.principal_id}:{tenants}:{'staff' if self.staff else ''}"


@dataclass(frozen=True)
class MaintenanceScope:
    """Keeps grants and notices when nobody asks: ends what is over, and records that."""

    visibility: str = "expiry"


Scope = (
    TenantScope
    | GlobalScope
    | IdentityScope
    | LedgerScope
    | PolicyScope
    | PrincipalScope
    | MaintenanceScope
)
