from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from altostack.kit.config import ConfigError, Settings, load
from altostack.kit.secret import Secret


class Pool(Settings, frozen=True, kw_only=True):
    gib: int


class Compute(Settings, frozen=True, kw_only=True):
    cpu_ratio: float = 4.0
    driver: str = "libvirt"
    filters: tuple[str, ...] = ("ram",)
    debug: bool = False
    key: Secret | None = None
    folder: Path = Path("/x")
    model: Literal["flat", "deep"] = "flat"


class Cloud(Settings, frozen=True, kw_only=True):
    compute: Compute = Compute()
    pools: dict[str, Pool] = msgspec.field(default_factory=dict)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "altostack.toml"
    path.write_text(text)
    return path


def test_defaults_without_a_file(tmp_path: Path) -> None:
    assert load(Cloud, tmp_path / "none.toml", environ={}) == Cloud()
    assert load(Cloud, environ={}) == Cloud()


def test_file_and_environment(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [compute]
        cpu_ratio = 2
        key = "k"
        folder = "/srv"
        [pools.fast]
        gib = 10
        """,
    )
    environ = {
        "ALTOSTACK__COMPUTE__CPU_RATIO": "8.5",
        "ALTOSTACK__COMPUTE__DRIVER": "true",
        "ALTOSTACK__COMPUTE__FILTERS": '["a", "b"]',
        "ALTOSTACK__COMPUTE__DEBUG": "true",
        "ALTOSTACK__COMPUTE__MODEL": "deep",
        "ALTOSTACK__POOLS__SLOW__GIB": "3",
        "ALTOSTACK_STATE": "/elsewhere",
    }
    cloud = load(Cloud, path, environ=environ)
    assert cloud.compute == Compute(
        cpu_ratio=8.5, driver="true", filters=("a", "b"), debug=True, key=Secret("k"), folder=Path("/srv"),
        model="deep",
    )  # fmt: skip
    assert cloud.pools == {"fast": Pool(gib=10), "slow": Pool(gib=3)}
    with pytest.raises(AttributeError):
        cloud.compute.debug = False  # type: ignore[misc]  # that it fails is the point


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[compute]\ncpu_ration = 1",
            r"altostack\.toml: unknown key 'compute\.cpu_ration'; did you mean 'cpu_ratio'\?",
        ),
        ("[compte]\n", "unknown key 'compte'; did you mean 'compute'"),
        ("[compute]\nzzz = 1", "valid keys are cpu_ratio, debug"),
        ("[pools.fast]\ngb = 1", "unknown key 'pools.fast.gb'"),
        ("[pools.fast]\n", r"pools.*missing required field `gib`"),
        (
            '[compute]\ncpu_ratio = "high"',
            r"altostack\.toml: compute\.cpu_ratio: Expected `float`, got `str`",
        ),
        ("[compute]\nfolder = 3", "compute.folder: Expected `str`"),
        ("compute = 3", "compute: Expected `object`, got `int`"),
        ("[compute", "not TOML"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Cloud, write(tmp_path, text), environ={})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "ALTOSTACK__COMPUTE__CPU_RATIOS",
            "1",
            "CPU_RATIOS: unknown key 'cpu_ratios'; did you mean 'cpu_ratio'",
        ),
        ("ALTOSTACK__COMPUTE", "1", "'compute' is a section"),
        ("ALTOSTACK__NONE__X", "1", "unknown key 'none'"),
        ("ALTOSTACK__COMPUTE__CPU_RATIO", "much", "'much' is not a TOML value"),
        ("ALTOSTACK__COMPUTE__CPU_RATIO", '"much"', "compute.cpu_ratio: Expected `float`"),
    ],
)
def test_mistakes_in_the_environment(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Cloud, environ={name: value})
