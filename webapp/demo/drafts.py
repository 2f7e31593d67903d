"""Drafts of the demo's rules, as a client would send them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Draft = dict[str, Any]

WEEKDAYS = ["mon", "tue", "wed", "thu", "fri"]
QUARTERS = (
    ("first", "2026-03-25T00:00:00Z", "2026-04-05T00:00:00Z"),
    ("second", "2026-06-24T00:00:00Z", "2026-07-05T00:00:00Z"),
    ("third", "2026-09-24T00:00:00Z", "2026-10-05T00:00:00Z"),
    ("fourth", "2026-12-18T00:00:00Z", "2027-01-08T00:00:00Z"),
)


@dataclass(frozen=True)
class Customer:
    """What differs between the rules of the tenants."""

    name: str
    tz: str
    office: str
    guests: str


CUSTOMERS = {
    "acme": Customer("Acme Rockets", "Europe/Berlin", "10.20.0.0/16", "10.29.0.0/16"),
    "globex": Customer("Globex Corporation", "America/New_York", "172.16.8.0/21", "172.16.99.0/24"),
    "initech": Customer("Initech", "Asia/Tokyo", "192.168.40.0/22", "192.168.66.0/24"),
}

AREAS = {
    "Invoices": "billing.invoices",
    "Payment methods": "billing.payment_methods",
    "Subscriptions": "billing.subscriptions",
    "Customer profiles": "crm.profiles",
    "Support notes": "crm.notes",
    "Orders": "shop.orders",
    "Data exports": "data.exports",
    "Usage reports": "data.reports",
    "Login history": "security.logins",
    "API keys": "security.api_keys",
    "Team members": "account.members",
    "Webhooks": "account.webhooks",
}


def tenant_rules(slug: str) -> list[Draft]:
    """Five rules for each area."""
    customer = CUSTOMERS[slug]
    return [
        {"tenant": slug, **draft}
        for number, (area, surface) in enumerate(AREAS.items())
        for draft in _area_rules(customer, area, surface, number)
    ]


def _area_rules(customer: Customer, area: str, surface: str, number: int) -> Iterator[Draft]:
    quarter, closes, reopens = QUARTERS[number % len(QUARTERS)]
    yield {
        "name": f"{area}: support in office hours only",
        "description": f"{customer.name} is there to be asked between 8 and 18 o'clock.",
        "effect": "deny",
        "subjects": {"roles": ["support"]},
        "surfaces": [f"{surface}.read", f"{surface}.list"],
        "reasons": ["support_case"],
        "windows": [
            {"days": ["sun", *WEEKDAYS], "from": "18:00", "to": "08:00", "tz": customer.tz},
            {"days": ["sat", "sun"], "from": "00:00", "to": "00:00", "tz": customer.tz},
        ],
    }
    yield {
        "name": f"{area}: incidents need an approval",
        "description": "Whoever is on call with us says yes, at any hour.",
        "effect": "require_approval",
        "subjects": {"roles": ["engineer"]},
        "surfaces": [f"{surface}.*"],
        "reasons": ["incident", "maintenance"],
        "ticket": "INC-*",
        "networks": [customer.office],
        "max_minutes": 30 + 15 * (number % 4),
        "approver_roles": ["admin"],
    }
    yield {
        "name": f"{area}: fraud and legal need two",
        "description": "Two of our admins, and a second factor.",
        "effect": "require_approval",
        "surfaces": [f"{surface}.*"],
        "reasons": ["fraud", "legal"],
        "mfa": True,
        "max_minutes": 240,
        "min_approvals": 2,
        "approver_roles": ["admin"],
    }
    yield {
        "name": f"{area}: not from the guest network",
        "effect": "deny",
        "surfaces": [f"{surface}.*"],
        "networks": [customer.guests],
        "enabled": number % 5 != 4,
    }
    yield {
        "name": f"{area}: closed for the {quarter} quarter",
        "description": f"Finance of {customer.name} closes the books.",
        "effect": "deny",
        "surfaces": [f"{surface}.export", f"{surface}.update"],
        "reasons": ["support_case", "maintenance"],
        "windows": [
            {"days": ["sat", "sun"], "from": "22:00", "to": "06:00", "tz": customer.tz},
            {"days": WEEKDAYS, "from": "18:00", "to": "08:00", "tz": customer.tz},
        ],
        "enabled": number % 3 != 2,
        "starts_at": closes,
        "ends_at": reopens,
    }


PLATFORM_RULES: tuple[Draft, ...] = (
    {
        "name": "Engineers in incidents",
        "description": "Across all tenants, for as long as the incident's ticket is open.",
        "effect": "allow",
        "subjects": {"roles": ["engineer"]},
        "surfaces": ["*"],
        "reasons": ["incident", "maintenance"],
        "max_minutes": 240,
    },
    {
        "name": "Support works on a case",
        "effect": "allow",
        "subjects": {"roles": ["support"]},
        "surfaces": ["*"],
        "reasons": ["support_case", "incident"],
        "max_minutes": 60,
    },
    {
        "name": "Auditors read what happened",
        "effect": "allow",
        "subjects": {"roles": ["auditor"]},
        "surfaces": ["admin.audits.*", "admin.rules.*"],
    },
    {
        "name": "Owners run the platform",
        "effect": "allow",
        "subjects": {"roles": ["owner"]},
        "surfaces": ["admin.*"],
    },
    {
        "name": "Fraud needs a second engineer",
        "effect": "require_approval",
        "subjects": {"roles": ["engineer"]},
        "surfaces": ["billing.*", "security.*"],
        "reasons": ["fraud"],
        "mfa": True,
        "approver_roles": ["engineer", "owner"],
    },
    {
        "name": "Legal holds go through the owners",
        "effect": "require_approval",
        "surfaces": ["data.exports.*"],
        "reasons": ["legal"],
        "ticket": "LEGAL-*",
        "min_approvals": 2,
        "approver_roles": ["owner"],
    },
    {
        "name": "Use break-glass from the operations network",
        "description": "Reviewed by somebody else before the same person can use it again.",
        "effect": "allow",
        "subjects": {"roles": ["engineer", "owner"]},
        "surfaces": ["*"],
        "reasons": ["break_glass"],
        "networks": ["10.0.0.0/8", "fd00::/8", "127.0.0.0/8", "::1/128"],
        "mfa": True,
        "max_minutes": 30,
    },
    {
        "name": "No exports at night",
        "effect": "deny",
        "surfaces": ["data.exports.*"],
        "reasons": ["support_case"],
        "windows": [
            {"days": [*WEEKDAYS, "sat", "sun"], "from": "22:00", "to": "06:00", "tz": "UTC"}
        ],
    },
    {
        "name": "No access to credentials",
        "effect": "deny",
        "subjects": {"roles": ["support"]},
        "surfaces": ["security.api_keys.*"],
    },
    {
        "name": "Year-end freeze",
        "description": "Switched on by the owners when the freeze is announced.",
        "effect": "deny",
        "surfaces": ["*"],
        "reasons": ["maintenance"],
        "enabled": False,
        "starts_at": "2026-12-20T00:00:00Z",
        "ends_at": "2027-01-04T00:00:00Z",
    },
)
