"""The generations of cached rows, in the database so that they change with the rows themselves."""

from sqlalchemy import BigInteger, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.base import Base


class CacheGeneration(Base):
    """Names no tenant and holds no data: every scope's role may read, add and raise it."""

    __tablename__ = "cache_generations"

    tag: Mapped[str] = mapped_column(Text, primary_key=True)
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
