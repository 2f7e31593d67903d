"""Schemas of simulations."""

from datetime import UTC, datetime
from typing import Any, cast, get_args

from marshmallow import ValidationError, fields, validate, validates_schema

from webapp.audit.event import Ruling
from webapp.http.errors import NamedRuleSchema
from webapp.http.schema import ADDRESS, Flag, Id, Instant, Schema, Text, TupleOf, Whole
from webapp.identity.principal import PLATFORM_ROLES, TENANT_ROLES
from webapp.rules.schemas import FEW, RuleCreateSchema
from webapp.rules.simulation import documentation
from webapp.rules.simulation.models import SimulationRow
from webapp.rules.simulation.queue import (
    NOT_IN_TIME,
    UNFINISHED,
    QueuedSimulation,
    SimulationState,
)
from webapp.rules.simulation.replay import Affected, Changed, Replay, ReplayOutcome, Shift
from webapp.rules.simulation.service import Comparison, DecisionView, DescribedAccess, Simulation
from webapp.scope.headers import MAX_TICKET, REASON_CODES
from webapp.scope.schemas import EMAIL, SLUG, SURFACE

MAX_DAYS = 90


class DescribedAccessSchema(Schema):
    model = DescribedAccess
    descriptions = documentation.DESCRIBED_ACCESS_FIELDS

    email = Text(required=True, validate=EMAIL)
    roles = TupleOf(
        fields.String(validate=validate.OneOf((*PLATFORM_ROLES, *TENANT_ROLES))),
        load_default=(),
        validate=FEW,
    )
    mfa = Flag(load_default=False)
    surface = fields.String(required=True, validate=SURFACE)
    reason = fields.String(required=True, validate=validate.OneOf(REASON_CODES))
    ticket = Text(load_default=None, allow_none=True, validate=validate.Length(1, MAX_TICKET))
    ip = fields.String(load_default=None, allow_none=True, validate=ADDRESS)
    at = Instant(
        load_default=None, allow_none=True, metadata={"description": "Null or absent: now."}
    )
    tenant = fields.String(
        load_default=None,
        allow_none=True,
        validate=SLUG,
        metadata={"description": "Null or absent: all tenants."},
    )


class SimulationRequestSchema(Schema):
    """A draft or the removal of a rule, and the accesses to try it on."""

    example = documentation.REQUEST
    descriptions = documentation.SIMULATE_FIELDS

    rule = fields.Nested(RuleCreateSchema, load_default=None, allow_none=True)
    replaces = Id(load_default=None, allow_none=True)
    remove = Flag(load_default=False)
    access = fields.Nested(DescribedAccessSchema, load_default=None, allow_none=True)
    days = Whole(load_default=None, allow_none=True, validate=validate.Range(1, MAX_DAYS))

    @validates_schema
    def _is_one_question(self, data: dict[str, Any], **_: Any) -> None:
        problems = {}
        if data["remove"] and data["rule"] is not None:
            problems["rule"] = ["Must be absent if a rule is removed."]
        if not data["remove"] and data["rule"] is None:
            problems["rule"] = ["Is required unless a rule is removed."]
        if data["remove"] and data["replaces"] is None:
            problems["replaces"] = ["Must say which rule is removed."]
        if (data["access"] is None) == (data["days"] is None):
            problems["access"] = ["Say either `access` or `days`."]
        if problems:
            raise ValidationError(problems)


class DecisionViewSchema(Schema):
    model = DecisionView
    descriptions = documentation.DECISION_VIEW_FIELDS

    effect = fields.String(required=True, validate=validate.OneOf(get_args(Ruling)))
    explanation = fields.String(required=True)
    named = TupleOf(fields.Nested(NamedRuleSchema), required=True)
    rule_ids = TupleOf(fields.UUID(), required=True)
    excluded_count = fields.Integer(required=True, allow_none=True)
    excluded_tenant_ids = TupleOf(fields.UUID(), required=True, allow_none=True)
    excluded = fields.Boolean(required=True, allow_none=True)


class ComparisonSchema(Schema):
    model = Comparison
    descriptions = documentation.COMPARISON_FIELDS

    before = fields.Nested(DecisionViewSchema, required=True)
    after = fields.Nested(DecisionViewSchema, required=True)


def _outcome() -> fields.String:
    return fields.String(required=True, validate=validate.OneOf(get_args(ReplayOutcome)))


class ShiftSchema(Schema):
    model = Shift
    descriptions = documentation.SHIFT_FIELDS

    before = _outcome()
    after = _outcome()
    accesses = fields.Integer(required=True)


class AffectedSchema(Schema):
    model = Affected
    descriptions = documentation.AFFECTED_FIELDS

    actor = fields.String(required=True)
    accesses = fields.Integer(required=True)


class ChangedSchema(Schema):
    model = Changed
    descriptions = documentation.CHANGED_FIELDS

    id = fields.UUID(required=True)
    occurred_at = fields.AwareDateTime(required=True)
    actor = fields.String(required=True)
    surface = fields.String(required=True)
    reason = fields.String(required=True)
    before = _outcome()
    after = _outcome()


class ReplaySchema(Schema):
    model = Replay
    descriptions = documentation.REPLAY_FIELDS

    examined = fields.Integer(required=True)
    changed = fields.Integer(required=True)
    truncated = fields.Boolean(required=True)
    covered_from = fields.AwareDateTime(required=True)
    shifts = TupleOf(fields.Nested(ShiftSchema), required=True)
    actors = TupleOf(fields.Nested(AffectedSchema), required=True)
    accesses = TupleOf(fields.Nested(ChangedSchema), required=True)


class SimulationSchema(Schema):
    model = Simulation
    example = documentation.SIMULATION
    descriptions = documentation.SIMULATION_FIELDS

    access = fields.Nested(ComparisonSchema, required=True, allow_none=True)
    past = fields.Nested(ReplaySchema, required=True, allow_none=True)


class QueuedSimulationSchema(Schema):
    model = QueuedSimulation
    example = documentation.QUEUED
    descriptions = documentation.QUEUED_FIELDS

    id = fields.UUID(required=True)
    state = fields.String(required=True, validate=validate.OneOf(get_args(SimulationState)))
    asked_at = fields.AwareDateTime(required=True)
    until = fields.AwareDateTime(required=True)
    past = fields.Nested(ReplaySchema, required=True, allow_none=True)
    problem = fields.String(required=True, allow_none=True)


def queued_simulation(row: SimulationRow) -> QueuedSimulation:
    """A stored simulation as a value. One that is overdue has failed already."""
    is_overdue = row.state in UNFINISHED and row.until <= datetime.now(UTC)
    return QueuedSimulation(
        id=row.id,
        state="failed" if is_overdue else cast(SimulationState, row.state),
        asked_at=row.asked_at.astimezone(UTC),
        until=row.until.astimezone(UTC),
        past=None if row.result is None else ReplaySchema().loads(row.result),
        problem=NOT_IN_TIME if is_overdue else row.problem,
    )
