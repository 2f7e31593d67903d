"""kombu's transport for `amqps://`, for a broker whose certificate has to bear its name.

By itself kombu believes any certificate that an authority has signed, whoever's it is.
"""

import ssl
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, pyamqp


class Transport(pyamqp.SSLTransport):
    """A transport that asks each broker of a list for a certificate of that broker's own name."""

    def establish_connection(self) -> Any:
        client: Any = self.client
        client.ssl = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": client.hostname}
        return super().establish_connection()


def use_for_amqps() -> None:
    """Have kombu use this transport for `amqps://`, also after a failover."""
    TRANSPORT_ALIASES["amqps"] = f"{Transport.__module__}:{Transport.__qualname__}"
