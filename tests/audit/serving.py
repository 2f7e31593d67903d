"""The application for gunicorn: the product with the surfaces that misbehave."""

from tests.audit.accesses import blueprint
from webapp.application import create_app

app = create_app()
app.register_blueprint(blueprint)
