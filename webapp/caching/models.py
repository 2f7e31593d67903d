"""The table of generations, which change in the same transaction as the cached rows."""

from sqlalchemy import BigInteger, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base


class CacheGeneration(Base):
    """The generation of a tag. It holds no tenant's data: every role may read, add and raise it."""

    __tablename__ = "cache_generations"

    tag: Mapped[str] = mapped_column(Text, primary_key=True)
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
