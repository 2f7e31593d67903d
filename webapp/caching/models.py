"""The table of generations, which change in the same transaction as the cached rows."""

from sqlalchemy import BigInteger, CheckConstraint, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base


class CacheGeneration(Base):
    """The generation of a tag, which is no tenant's data.

    Every role may read it. The function `raise_generations` makes and raises it, and nothing that
    the application may do lowers it: what was invalidated would come back.
    """

    __tablename__ = "cache_generations"
    __table_args__ = (CheckConstraint("length(tag) between 1 and 200", name="tag"),)

    tag: Mapped[str] = mapped_column(Text, primary_key=True)
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
