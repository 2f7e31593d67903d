"""Lists page by page, as a client reads them."""

from collections.abc import Iterator, Mapping
from typing import Any

from flask.testing import FlaskClient


def pages(
    client: FlaskClient, path: str, headers: Mapping[str, str], query: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Read a list to its end: each page once, from the first to the one that names no next."""
    asked = dict(query)
    while True:
        answer = client.get(path, headers=headers, query_string=asked)
        assert answer.status_code == 200, answer.text
        page = answer.get_json()
        yield page
        if page["next_cursor"] is None:
            return
        asked["cursor"] = page["next_cursor"]
