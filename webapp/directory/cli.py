"""`flask tenants`, `flask users`, `flask tokens`: administration of who may do what."""

import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec
from uuid import UUID

import click

from webapp.commands import Commands, as_json, print_details, print_json, print_rows, say
from webapp.db.scopes import DirectoryScope
from webapp.directory import listing, service
from webapp.directory.listing import NamingRule, TenantEntry, TokenEntry, UserEntry
from webapp.directory.service import NewBindings
from webapp.extensions import db
from webapp.identity.principal import (
    PLATFORM_ROLES,
    TENANT_ROLES,
    PlatformRole,
    TenantRole,
)
from webapp.scope.command_access import command_access, reason_option
from webapp.scope.headers import Reason

NEVER = "never"
LONGEST = timedelta(days=3650)

P = ParamSpec("P")

tenants = Commands("tenants", help="Administer tenants: the customers, whose rows are kept apart.")
users = Commands(
    "users",
    help="Administer users, who are people and services: their platform roles, and their"
    " memberships in tenants.",
)
tokens = Commands("tokens", help="Make, show and revoke API tokens, which users authenticate with.")


class Lifetime(click.ParamType[timedelta | None]):
    """`90d`, `12h`, `30m`, `2w`, or `never`."""

    name = "lifetime"
    _UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta | None:
        match = re.fullmatch(r"([0-9]{1,6})([mhdw])", str(value), re.ASCII)
        if value == NEVER:
            return None
        lifetime = timedelta(**{self._UNITS[match[2]]: int(match[1])}) if match else timedelta()
        if not timedelta() < lifetime <= LONGEST:
            self.fail("must be like 90d, 12h, 30m or 2w, ten years at most, or never", param, ctx)
        return lifetime


def _within_directory(command: Callable[P, None]) -> Callable[P, None]:
    """Run a command in the scope of administration: its operator is at the machine."""

    @wraps(command)
    def scoped(*args: P.args, **kwargs: P.kwargs) -> None:
        with db.scoped(DirectoryScope()):
            command(*args, **kwargs)

    return scoped


email = click.argument("email")
slug_argument = click.argument("slug")
platform_role = click.argument("role", type=click.Choice(PLATFORM_ROLES))


def _bindings(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what a service may ask with its token, as `bindings`."""

    @click.option(
        "--surface",
        "surfaces",
        metavar="PATTERN",
        multiple=True,
        help="A surface that a service may ask about with the token, or a prefix and .*, or *; may"
        " be given more than once. * covers no surface of Sightline's own, whose names begin with"
        " admin.",
    )
    @click.option(
        "--tenant",
        "tenants",
        metavar="SLUG",
        multiple=True,
        help="A tenant that a service may ask about with the token; may be given more than once.",
    )
    @click.option(
        "--all-tenants", is_flag=True, help="A service may ask about every tenant with the token."
    )
    @click.option(
        "--break-glass", is_flag=True, help="A service may ask for break-glass with the token."
    )
    @click.option(
        "--reports-mfa",
        is_flag=True,
        help="A service may say with the token that a person has shown a second factor.",
    )
    @wraps(command)
    def bound(
        *,
        surfaces: tuple[str, ...],
        tenants: tuple[str, ...],
        all_tenants: bool,
        break_glass: bool,
        reports_mfa: bool,
        **others: Any,
    ) -> None:
        if tenants and all_tenants:
            raise click.UsageError("Give --tenant or --all-tenants, not both.")
        named = None if all_tenants else tenants
        given = NewBindings(surfaces, named, break_glass=break_glass, reports_mfa=reports_mfa)
        command(bindings=given, **others)

    return bound


@tenants.command("create")
@slug_argument
@click.option("--name", help="What people call it; the slug if left out.")
@as_json
@_within_directory
def create_tenant(*, slug: str, name: str | None, as_json: bool) -> None:
    """Make a tenant. SLUG names it in Sightline-Scope."""
    tenant = service.create_tenant(slug, slug if name is None else name)
    tenant_id = tenant.id
    db.session.commit()
    _done(f"The tenant {slug} is made.", as_json, id=tenant_id, slug=slug)


@tenants.command("list")
@as_json
@_within_directory
def list_tenants(*, as_json: bool) -> None:
    """Show all tenants, those that have ended too."""
    print_rows(TenantEntry, listing.list_tenants(), as_json=as_json)


@tenants.command("show")
@slug_argument
@as_json
@_within_directory
def show_tenant(*, slug: str, as_json: bool) -> None:
    """Show a tenant and its members."""
    print_details(listing.show_tenant(slug), as_json=as_json)


@tenants.command("rename")
@slug_argument
@click.option("--slug", "new_slug", metavar="NEW", help="The slug that requests name it by.")
@click.option("--name", help="What people call it.")
@as_json
@_within_directory
def rename_tenant(*, slug: str, new_slug: str | None, name: str | None, as_json: bool) -> None:
    """Change the slug of a tenant, its name, or both, from the next request on.

    Its rules, grants and members stay. Audit events keep the slug that they recorded; requests
    that still name the former slug find no tenant.
    """
    if new_slug is None and name is None:
        raise click.UsageError("Give --slug, --name, or both.")
    tenant = service.rename_tenant(slug, new_slug=new_slug, name=name)
    tenant_id, slug_now, name_now = tenant.id, tenant.slug, tenant.name
    db.session.commit()
    said = f"The tenant {slug} is now {slug_now}, {name_now}."
    _done(said, as_json, id=tenant_id, slug=slug_now, name=name_now)


@tenants.command("end")
@slug_argument
@click.confirmation_option(
    prompt="The tenant ends for good. Go on?", help="End it without asking first."
)
@as_json
@_within_directory
def end_tenant(*, slug: str, as_json: bool) -> None:
    """End a tenant for good, from the next request on.

    All memberships in it end, and no elevation finds it any more. Its rules, grants and audit
    events stay. Its slug stays taken; `flask tenants rename` frees it.
    """
    members = service.end_tenant(slug)
    db.session.commit()
    said = f"The tenant {slug} has ended, with {members} memberships."
    _done(said, as_json, slug=slug, memberships=members)


@users.command("create")
@email
@click.option(
    "--role",
    "roles",
    type=click.Choice(PLATFORM_ROLES),
    multiple=True,
    help="A platform role to give the user; may be given more than once.",
)
@as_json
@_within_directory
def create_user(*, email: str, roles: tuple[PlatformRole, ...], as_json: bool) -> None:
    """Make a user, with platform roles if any are given."""
    user = service.create_user(email, roles)
    user_id, made = user.id, user.email
    db.session.commit()
    _done(f"The user {made} is made.", as_json, id=user_id, email=made)


@users.command("list")
@as_json
@_within_directory
def list_users(*, as_json: bool) -> None:
    """Show all users and their roles, those that have ended too.

    A role in a tenant is shown as slug:role.
    """
    print_rows(UserEntry, listing.list_users(), as_json=as_json)


@users.command("show")
@email
@as_json
@_within_directory
def show_user(*, email: str, as_json: bool) -> None:
    """Show a user: roles, memberships and tokens."""
    print_details(listing.show_user(email), as_json=as_json)


@users.command("rename")
@email
@click.argument("new_email")
@reason_option
@as_json
def rename_user(*, email: str, new_email: str, reason: Reason, as_json: bool) -> None:
    """Change the address of a user, from the next request on.

    Roles, memberships, tokens and grants stay. Audit events keep the address that they recorded.
    A rule that names the former address does not apply to the user any more: such rules are
    listed, to be changed by hand. They are tenants' data, so a reason is asked for.
    """
    with db.scoped(DirectoryScope()):
        user = service.rename_user(email, new_email)
        user_id, address = user.id, user.email
        db.session.commit()
    with command_access("users rename", reason, {"user": email}) as access:
        naming = listing.list_naming_rules(email)
        access.rows = len(naming)
    _done(f"The user {email} is now {address}.", as_json, id=user_id, email=address, rules=naming)
    if naming and not as_json:
        say(f"These rules name {email}, and do not apply to {address}:")
        print_rows(NamingRule, naming, as_json=False)


@users.command("end")
@email
@click.confirmation_option(
    prompt="The user ends for good. Go on?", help="End the user without asking first."
)
@as_json
@_within_directory
def end_user(*, email: str, as_json: bool) -> None:
    """End a user for good, from the next request on.

    All tokens are revoked, and all platform roles and memberships end. What the user did stays on
    record. The address stays taken; `flask users rename` frees it.
    """
    ended = service.end_user(email)
    counts = asdict(ended)
    db.session.commit()
    said = (
        f"The user {email} has ended, with {ended.tokens} tokens, {ended.platform_roles} platform"
        f" roles and {ended.memberships} memberships."
    )
    _done(said, as_json, email=email, **counts)


@users.command("grant")
@email
@platform_role
@as_json
@_within_directory
def grant(*, email: str, role: PlatformRole, as_json: bool) -> None:
    """Give a user a platform role."""
    service.set_platform_role(email, role, held=True)
    db.session.commit()
    _done(f"{email} has the role {role}.", as_json, email=email, role=role)


@users.command("revoke")
@email
@platform_role
@as_json
@_within_directory
def revoke(*, email: str, role: PlatformRole, as_json: bool) -> None:
    """Take a platform role from a user, from the next request on."""
    service.set_platform_role(email, role, held=False)
    db.session.commit()
    _done(f"{email} no longer has the role {role}.", as_json, email=email, role=role)


@users.command("join")
@email
@slug_argument
@click.option(
    "--role",
    type=click.Choice(TENANT_ROLES),
    default="member",
    show_default=True,
    help="The role of the user in the tenant.",
)
@as_json
@_within_directory
def join(*, email: str, slug: str, role: TenantRole, as_json: bool) -> None:
    """Make a user a member of a tenant, or change the role in it."""
    service.set_membership(email, slug, role)
    db.session.commit()
    _done(f"{email} is {role} of {slug}.", as_json, email=email, tenant=slug, role=role)


@users.command("leave")
@email
@slug_argument
@as_json
@_within_directory
def leave(*, email: str, slug: str, as_json: bool) -> None:
    """End a user's membership, from the next request on."""
    service.end_membership(email, slug)
    db.session.commit()
    _done(f"{email} is no longer in {slug}.", as_json, email=email, tenant=slug)


@tokens.command("create")
@email
@click.option("--name", required=True, help="What the token is for.")
@click.option(
    "--expires-in",
    type=Lifetime(),
    default="90d",
    show_default=True,
    help="The token's lifetime in minutes, hours, days or weeks (30m, 12h, 90d, 2w), or never.",
)
@click.option("--mfa", is_flag=True, help="The user has shown a second factor for the token.")
@_bindings
@as_json
@_within_directory
def create_token(
    *,
    email: str,
    name: str,
    expires_in: timedelta | None,
    mfa: bool,
    bindings: NewBindings,
    as_json: bool,
) -> None:
    """Make a token and print it, this once: nobody can print it again.

    A service's token has to be bound to what the service may ask. Bound to nothing, it asks
    nothing.
    """
    expires_at = None if expires_in is None else datetime.now(UTC) + expires_in
    made = service.create_token(email, name, expires_at, mfa=mfa)
    if bindings.binds:
        service.bind_token(made.id, bindings)
    db.session.commit()
    if as_json:
        print_json({"id": made.id, "token": made.secret, "expires_at": expires_at})
        return
    click.echo(made.secret)
    until = NEVER if expires_at is None else expires_at.isoformat(timespec="minutes")
    say(f"Token {made.id}, expires {until}. It is not shown again.", err=True)


@tokens.command("bind")
@click.argument("token_id", type=click.UUID)
@_bindings
@as_json
@_within_directory
def bind_token(*, token_id: UUID, bindings: NewBindings, as_json: bool) -> None:
    """Bind a service's token to what is given here and nothing else, from the next request on.

    Without any option the token asks nothing any more.
    """
    service.bind_token(token_id, bindings)
    db.session.commit()
    _done(f"The token {token_id} is bound.", as_json, id=token_id, **asdict(bindings))


@tokens.command("list")
@click.option("--user", metavar="EMAIL", help="Only tokens of the user with this address.")
@as_json
@_within_directory
def list_tokens(*, user: str | None, as_json: bool) -> None:
    """Show tokens, newest first; never their secrets."""
    print_rows(TokenEntry, listing.list_tokens(user), as_json=as_json)


@tokens.command("revoke")
@click.argument("token_id", type=click.UUID)
@as_json
@_within_directory
def revoke_token(*, token_id: UUID, as_json: bool) -> None:
    """End a token in every process, from the next request on."""
    service.revoke_token(token_id)
    db.session.commit()
    _done(f"The token {token_id} is revoked.", as_json, id=token_id)


def _done(said: str, as_json: bool, **values: object) -> None:
    if as_json:
        print_json(values)
    else:
        say(said)
