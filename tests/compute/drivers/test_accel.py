"""The probe for KVM."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from altostack.compute.drivers import accel

needs_qemu = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs QEMU")


@needs_qemu
@pytest.mark.real
def test_a_guest_that_boots_is_found_and_one_that_hangs_is_not(tmp_path: Path) -> None:
    assert accel.probe("tcg", timeout_s=20)
    began = time.monotonic()
    assert not accel.probe("tcg", timeout_s=0.001)
    assert time.monotonic() - began < 2
    assert not accel.probe("no-such-accelerator", timeout_s=5)
    assert not accel.probe_kvm(emulator="/nonexistent")


def test_the_answer_is_kept_for_this_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False])
    monkeypatch.setattr(accel, "probe_kvm", lambda **_: next(answers))
    assert accel.virt_type(tmp_path) == "kvm"
    assert accel.virt_type(tmp_path) == "kvm"
    file = tmp_path / "virt-type.json"
    file.write_text(json.dumps({"kernel": "another", "type": "kvm"}))
    assert accel.virt_type(tmp_path) == "qemu"
    assert accel.virt_type(tmp_path) == "qemu"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kernel": 1}'])
def test_a_spoilt_file_is_probed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(accel, "probe_kvm", lambda **_: False)
    (tmp_path / "virt-type.json").write_text(text)
    assert accel.virt_type(tmp_path) == "qemu"
