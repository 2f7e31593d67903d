"""What we change of gunicorn changes no setting of it."""

import pytest
from gunicorn.config import Config

from webapp.observability.gunicorn import keep_settings


@pytest.fixture
def cfg() -> Config:
    cfg = Config()
    cfg.set("threads", 8)
    cfg.set("worker_class", "gthread")
    cfg.set("bind", "127.0.0.1:8000")
    cfg.set("raw_env", ["A=1"])
    return cfg


def test_every_setting_that_is_kept_is_what_it_was(cfg: Config) -> None:
    of_its_own = sorted(name for name in dir(Config) if isinstance(getattr(Config, name), property))
    names = [*cfg.settings, *of_its_own]
    before = {name: getattr(cfg, name) for name in names}
    keep_settings(cfg)
    assert {name: getattr(cfg, name) for name in names} == before
    assert before["worker_class_str"] == "gthread"
    assert before["threads"] == 8


def test_none_is_worked_out_again(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_settings(cfg)
    monkeypatch.delattr(Config, "__getattr__")
    assert cfg.strip_header_spaces is False
    assert cfg.limit_request_fields == 100
