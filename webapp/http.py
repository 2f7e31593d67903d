"""What every HTTP surface shares: the base schema, cursors, entity tags, conditional answers."""

from typing import Any, ClassVar

import marshmallow as ma


class Schema(ma.Schema):
    """Loads into the frozen dataclass named by `model`, on the wire and out of the cache alike.

    Unknown fields are refused. A schema without a `model` loads into a dict.
    """

    model: ClassVar[type[Any] | None] = None

    class Meta:
        unknown = ma.RAISE

    @ma.post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.model(**data) if self.model else data


class TupleOf(ma.fields.List):
    """A list on the wire, a tuple in the frozen dataclass."""

    def _deserialize(self, *args: Any, **kwargs: Any) -> Any:
        return tuple(super()._deserialize(*args, **kwargs))
