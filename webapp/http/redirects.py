"""Paths as they are sent, and redirects to nowhere but PUBLIC_URL."""

from flask import Flask, Response, request

from webapp.settings import Settings


def init_app(app: Flask) -> None:
    """To be called before routes are added."""
    # Otherwise `//admin` would be answered with a redirect, and each path have many forms.
    app.url_map.merge_slashes = False
    settings: Settings = app.extensions["settings"]
    public_url = settings.public_url

    def redirect_by_public_url(response: Response) -> Response:
        """The client chooses the header Host, which must lead nobody anywhere."""
        if not 300 <= response.status_code < 400:
            return response
        location = response.location
        if location is not None and location.startswith(request.host_url):
            response.location = f"{public_url}/{location.removeprefix(request.host_url)}"
        return response

    app.after_request(redirect_by_public_url)
