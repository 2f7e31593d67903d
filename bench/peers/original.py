# mypy: ignore-errors
# It runs in an environment of its own, where these libraries are.
"""The original stack: FastAPI with pydantic, cached by fastapi-cache2.

It verifies no token and scopes nothing. It answers with the product's rules, through models of the
same shape.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import uvicorn
from fastapi import FastAPI
from fastapi_cache import FastAPICache
from fastapi_cache.backends.redis import RedisBackend
from fastapi_cache.decorator import cache
from pydantic import BaseModel, ConfigDict, Field
from redis import asyncio as redis


class Subjects(BaseModel):
    roles: list[str]
    users: list[str]


class Window(BaseModel):
    model_config = ConfigDict(validate_by_name=True)

    days: list[str]
    begins: str = Field(alias="from")
    ends: str = Field(alias="to")
    tz: str


class Rule(BaseModel):
    id: UUID
    tenant: str | None
    name: str
    description: str
    effect: str
    subjects: Subjects
    surfaces: list[str]
    reasons: list[str]
    ticket: str | None
    windows: list[Window]
    networks: list[str]
    mfa: bool
    max_minutes: int | None
    min_approvals: int
    approver_roles: list[str]
    enabled: bool
    starts_at: datetime | None
    ends_at: datetime | None
    version: int
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


class RulePage(BaseModel):
    items: list[Rule]
    next_cursor: str | None
    total: int


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    FastAPICache.init(RedisBackend(redis.from_url(os.environ["REDIS_URL"])), prefix="bench-peer")
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/rules")
@cache(expire=3600)
async def rules() -> RulePage:
    return RulePage.model_validate_json(Path(os.environ["BENCH_RULES"]).read_bytes())


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
