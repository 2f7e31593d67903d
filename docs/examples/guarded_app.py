"""Back office of a shop, whose views ask Sightline before they show a customer's data.

    SIGHTLINE_URL=… SIGHTLINE_TOKEN=slt_… flask --app docs/examples/guarded_app.py:serve run

Only the client and the class `Guard` are for Sightline; the rest is an ordinary Flask application.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from flask import Flask, abort, g, jsonify, request
from flask.typing import ResponseReturnValue
from sightline_client import Elevation, Reason, Refused, Sightline, Unavailable

INVOICES = {"acme": ["A-1", "A-2"], "globex": ["G-1"], "initech": ["I-1"]}

P = ParamSpec("P")


class Guard:
    """Guards views with Sightline. `signed_in` returns the e-mail address of the current user."""

    def __init__(self, sightline: Sightline, signed_in: Callable[[], str]) -> None:
        self._sightline = sightline
        self._signed_in = signed_in

    def guard(
        self, *, surface: str
    ) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
        """Run the view only if Sightline allows the access; its answer is in `g.elevation`.

        The view's argument `tenant` names the tenant. A view without this argument shows all
        tenants, and must leave out those in `g.elevation.excluded`.
        """

        def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
            @wraps(view)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
                tenant: Any = kwargs.get("tenant")
                try:
                    g.elevation = elevation = self._ask(surface, tenant)
                except Unavailable:
                    return jsonify(
                        error="Sightline cannot decide now whether you may see this."
                    ), 503
                except Refused as refused:
                    if refused.status != 422:
                        raise
                    return jsonify(error=refused.detail), 400
                if not elevation.allowed:
                    return jsonify(error=elevation.explanation, ask=elevation.ask), 403
                return view(*args, **kwargs)

            return guarded

        return decorate

    def _ask(self, surface: str, tenant: str | None) -> Elevation:
        reason = Reason(request.args.get("reason", ""), request.args.get("ticket"))
        return self._sightline.ask(
            self._signed_in(), surface, tenant=tenant, reason=reason, ip=request.remote_addr
        )


def signed_in() -> str:
    """Replace this by your login. This one trusts a proxy that has authenticated the user."""
    return request.headers.get("X-Signed-In") or abort(401)


def create_app(client: Sightline) -> Flask:
    app = Flask(__name__)
    sightline = Guard(client, signed_in)

    @app.get("/invoices/<tenant>")
    @sightline.guard(surface="shop.invoices.list")
    def invoices(tenant: str) -> ResponseReturnValue:
        return jsonify(invoices=INVOICES.get(tenant, []), receipt=g.elevation.receipt)

    @app.get("/invoices")
    @sightline.guard(surface="shop.invoices.all")
    def all_invoices() -> ResponseReturnValue:
        left_out = {tenant.slug for tenant in g.elevation.excluded}
        shown = {slug: numbers for slug, numbers in INVOICES.items() if slug not in left_out}
        return jsonify(invoices=shown, left_out=len(left_out), receipt=g.elevation.receipt)

    return app


def serve() -> Flask:
    """Make the application from environment variables."""
    return create_app(Sightline(os.environ["SIGHTLINE_URL"], os.environ["SIGHTLINE_TOKEN"]))
