"""Task messages: their headers travel inside the sealed body.

Celery sends a task's name, id and times as headers beside the body, where whoever has the broker
could change them. So they are in the body too, and the consumer believes those only.
"""

from typing import Any
from uuid import UUID

from celery.app.amqp import AMQP, task_message

from webapp.worker.serialization import NotSealed


class SealedMessages(AMQP):
    """Makes task messages whose body is arguments, keyword arguments and headers.

    In the headers' place Celery has what is to follow the task, which no task here uses.
    """

    def as_task_v2(self, *args: Any, **options: Any) -> task_message:
        message = super().as_task_v2(*args, **options)
        positional, named, _ = message.body
        return message._replace(body=(positional, named, message.headers))


def headers_of(body: Any) -> dict[str, Any]:
    """Return the headers of an unsealed body; raises `NotSealed` unless it is a task's."""
    match body:
        case [list(), dict(), {"task": str(), "id": str() as task_id}]:
            headers: dict[str, Any] = body[2]
        case _:
            raise NotSealed("the body is no task")
    try:
        UUID(task_id)
    except ValueError as error:
        raise NotSealed("the task's id is no UUID") from error
    return headers
