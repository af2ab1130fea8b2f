"""`altostack db revision`: a declaration's change becomes a migration."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from altostack import app, cli
from altostack.app import load_services
from altostack.kit.db import Database
from altostack.kit.migrations import climb, head


def test_nothing_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["db", "revision", "image", "nothing at all"]) == 1
    assert "make what its rows declare already" in capsys.readouterr().err
    assert cli.main(["db", "revision", "weather", "add rain"]) == 1
    assert "there is no service 'weather'" in capsys.readouterr().err


def test_a_new_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = load_services(("image",))["image"]
    assert image.migrations is not None
    ladder = tmp_path / "migrations"
    shutil.copytree(image.migrations, ladder)
    declared = sa.MetaData()
    for table in image.metadata.tables.values():
        table.to_metadata(declared)
    sa.Table("colours", declared, sa.Column("name", sa.String(20), primary_key=True))
    changed = replace(image, migrations=ladder, metadata=declared)
    monkeypatch.setattr(app, "load_services", lambda names: {"image": changed})

    before = head(ladder)
    assert cli.main(["db", "revision", "image", "Add colours!"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written.name == f"{int(before) + 1:04}_add_colours.py"
    db = Database(f"sqlite:///{tmp_path}/climbed.sqlite", name="image")
    climb(db, ladder, head(ladder))
    with db.engine.connect() as connection:
        assert "colours" in sa.inspect(connection).get_table_names()
    db.close()
