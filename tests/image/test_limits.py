"""Limits and usage, property protections, signatures."""

from __future__ import annotations

import base64
import datetime
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from altostack.image.config import Protection
from altostack.kit.clients import Client, Response
from tests.image.stand import Glance

pytestmark = pytest.mark.everywhere
MIB = 1 << 20


def usage(glance: Glance) -> dict[str, tuple[int, int]]:
    found = glance.call("GET", "/v2/info/usage", who="reader")["usage"]
    return {name: (one["usage"], one["limit"]) for name, one in found.items()}


def test_limits_are_held_and_shown(tmp_path: Path) -> None:
    limits = {
        "image_count_total": 3,
        "image_size_total": 3,
        "image_stage_total": 2,
        "image_count_uploading": 1,
    }
    glance = Glance(tmp_path, limits=limits)
    keys = [glance.make()["id"] for _ in range(3)]
    status, text = glance.refusal("POST", "/v2/images", {"name": "fourth"})
    assert status == 413 and "image_count_total" in text
    glance.make(who="other")  # another project has limits of its own
    assert glance.put(keys[0], bytes(2 * MIB)).status == 204
    over = glance.put(keys[1], bytes(2 * MIB))
    assert over.status == 413
    assert glance.put(keys[1], [bytes(MIB), bytes(MIB)]).status == 413  # of unknown length
    assert glance.show(keys[1])["status"] == "queued"
    assert glance.put(keys[1], bytes(3 * MIB), to="stage").status == 413
    assert glance.put(keys[1], bytes(2 * MIB), to="stage").status == 204
    assert usage(glance) == {
        "image_size_total": (2, 3),
        "image_stage_total": (2, 2),
        "image_count_total": (3, 3),
        "image_count_uploading": (1, 1),
    }
    assert glance.put(keys[2], b"x").status == 413
    body = {"method": {"name": "glance-direct"}}
    assert glance.refusal("POST", f"/v2/images/{keys[1]}/import", body)[0] == 413
    glance.call("DELETE", f"/v2/images/{keys[0]}")
    glance.bring(keys[1], "glance-direct")
    assert usage(glance)["image_size_total"] == (2, 3)
    assert usage(glance)["image_count_uploading"] == (0, 1)
    assert len(glance.left()) == 1
    glance.close()


def test_a_race_for_the_last_image(tmp_path: Path) -> None:
    glance = Glance(tmp_path, limits={"image_count_total": 4})

    def create(number: int) -> int:
        headers = {"Content-Type": "application/json"}
        answer = glance.client.send("POST", "/v2/images", b"{}", token="member", headers=headers)
        answer.read()
        return answer.status

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(create, range(12)))
    assert sorted(found) == [201] * 4 + [413] * 8
    glance.close()


def test_without_limits_everything_fits(tmp_path: Path) -> None:
    glance = Glance(tmp_path)
    assert set(usage(glance).values()) == {(0, -1)}
    glance.close()


class FakeIdentity:
    """A transport that answers as identity's limits do."""

    def __init__(self) -> None:
        self.limits: list[dict[str, Any]] = []
        self.asked = 0

    def request(self, method: str, path: str, headers: Any, body: Any) -> Response:
        import msgspec

        self.asked += 1
        where = path.partition("?")[0]
        found = {
            "/v3/services": {"services": [{"id": "img"}]},
            "/v3/registered_limits": {
                "registered_limits": [
                    {"service_id": "img", "resource_name": "image_count_total", "default_limit": 1},
                    {"service_id": "other", "resource_name": "image_size_total", "default_limit": 0},
                    {"service_id": "img", "resource_name": "unknown", "default_limit": 0},
                ]
            },
            "/v3/limits": {"limits": self.limits},
        }[where]
        return Response(status=200, headers={}, chunks=[msgspec.json.encode(found)])


def test_limits_come_from_identity(tmp_path: Path) -> None:
    glance = Glance(tmp_path, limits={"image_size_total": 7})
    identity = FakeIdentity()
    glance.runtime.clients = {"identity": Client("identity", identity)}
    glance.make()
    assert glance.refusal("POST", "/v2/images", {})[0] == 413
    assert usage(glance)["image_count_total"] == (1, 1)
    assert usage(glance)["image_size_total"] == (0, 7)
    asked = identity.asked
    usage(glance)
    assert identity.asked == asked  # an answer is good for a few seconds
    identity.limits = [
        {
            "service_id": "img",
            "project_id": "1" * 32,
            "resource_name": "image_count_total",
            "resource_limit": 2,
        }
    ]
    now = glance.runtime.clock
    glance.runtime.clock = lambda: now() + 60
    glance.make()
    assert glance.refusal("POST", "/v2/images", {})[0] == 413
    glance.close()


def test_without_identity_nothing_is_let_through_unlimited(tmp_path: Path) -> None:
    class Away:
        def request(self, method: str, path: str, headers: Any, body: Any) -> Response:
            raise ConnectionError("identity is away")

    glance = Glance(tmp_path)
    glance.runtime.clients = {"identity": Client("identity", Away())}
    assert glance.refusal("POST", "/v2/images", {})[0] == 503
    glance.close()


# ---- protections


def test_property_protections(tmp_path: Path) -> None:
    rules = (
        Protection(pattern="^x_open$", create=("@",), read=("@",), update=("@",), delete=("@",)),
        Protection(pattern="^x_", create=("member",), read=("member",), update=("manager",)),
    )
    glance = Glance(tmp_path, protections=rules)
    made = glance.make(x_a="1", x_open="2", free="3")
    key = made["id"]
    assert (made["x_a"], made["x_open"], made["free"]) == ("1", "2", "3")
    seen = glance.show(key, who="reader")
    assert "x_a" not in seen and seen["x_open"] == "2" and seen["free"] == "3"
    assert "x_a" not in glance.call("GET", "/v2/images", who="reader")["images"][0]
    assert "x_a" in glance.call("GET", "/v2/images")["images"][0]
    for op, path in (("replace", "/x_a"), ("remove", "/x_a")):
        assert glance.patch(key, {"op": op, "path": path, "value": "9"})[0] == 403
        assert glance.patch(key, {"op": op, "path": "/x_open", "value": "9"})[0] == 200
    assert glance.patch(key, {"op": "add", "path": "/x_b", "value": "9"})[0] == 200
    assert glance.patch(key, {"op": "replace", "path": "/x_a", "value": "9"}, who="admin")[0] == 200
    assert glance.show(key)["x_a"] == "9"
    glance.close()


# ---- signatures


class Signer:
    """A key, its certificate in a folder, and images' properties signed with it."""

    def __init__(self, folder: Path, key: Any, kind: str, *, days: int = 1) -> None:
        self.folder, self.key, self.kind, self.id = folder, key, kind, str(uuid4())
        folder.mkdir(exist_ok=True)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - datetime.timedelta(days=5))
            .not_valid_after(now + datetime.timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        (folder / f"{self.id}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def properties(self, bits: bytes) -> dict[str, str]:
        if self.kind == "RSA-PSS":
            scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.MAX_LENGTH)
            signature = self.key.sign(bits, scheme, hashes.SHA256())
        else:
            signature = self.key.sign(bits, ec.ECDSA(hashes.SHA256()))
        return {
            "img_signature": base64.b64encode(signature).decode(),
            "img_signature_hash_method": "SHA-256",
            "img_signature_key_type": self.kind,
            "img_signature_certificate_uuid": self.id,
        }


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "certificates", rsa.generate_private_key(65537, 2048), "RSA-PSS")


@pytest.fixture
def glance(tmp_path: Path) -> Iterator[Glance]:
    lone = Glance(tmp_path, certificates=str(tmp_path / "certificates"))
    yield lone
    lone.close()


def refused(glance: Glance, bits: bytes, properties: dict[str, str]) -> str:
    key = glance.make(**properties)["id"]
    answer = glance.put(key, bits)
    text = answer.read().decode()
    assert answer.status == 400, text
    assert glance.show(key)["status"] == "queued"
    assert glance.left() == []
    return text


def test_signed_images(glance: Glance, signer: Signer) -> None:
    bits = os.urandom(3_000_000)
    good = signer.properties(bits)
    assert "does not match" in refused(glance, bits[:-1] + b"x", good)
    assert "does not match" in refused(glance, bits + b"\0", good)
    for word in good:
        assert word in refused(glance, bits, {k: v for k, v in good.items() if k != word})
    assert "no certificate" in refused(glance, bits, {**good, "img_signature_certificate_uuid": str(uuid4())})
    assert "UUID" in refused(glance, bits, {**good, "img_signature_certificate_uuid": "../../etc/passwd"})
    assert "base64" in refused(glance, bits, {**good, "img_signature": "%%%"})
    assert "not of the type" in refused(glance, bits, {**good, "img_signature_key_type": "ECC_SECP384R1"})
    assert "must be one of" in refused(glance, bits, {**good, "img_signature_key_type": "none"})
    assert "must be one of" in refused(glance, bits, {**good, "img_signature_hash_method": "MD5"})
    key = glance.make(**good)["id"]
    assert glance.put(key, bits).status == 204
    key = glance.make(**good)["id"]
    glance.put(key, bits, to="stage").read()
    glance.bring(key, "glance-direct")
    assert glance.show(key)["status"] == "active"
    key = glance.make(**good)["id"]
    glance.put(key, bits[1:], to="stage").read()
    glance.bring(key, "glance-direct")
    assert glance.show(key)["status"] == "queued" and "does not match" in glance.task(key)["message"]


def test_other_keys_and_old_certificates(glance: Glance, tmp_path: Path) -> None:
    curve = Signer(tmp_path / "certificates", ec.generate_private_key(ec.SECP384R1()), "ECC_SECP384R1")
    key = glance.make(**curve.properties(b"bits"))["id"]
    assert glance.put(key, b"bits").status == 204
    glance.call("DELETE", f"/v2/images/{key}")
    old = Signer(tmp_path / "certificates", ec.generate_private_key(ec.SECP384R1()), "ECC_SECP384R1", days=-1)
    assert "not valid now" in refused(glance, b"bits", old.properties(b"bits"))


def test_without_certificates_signed_images_are_refused(tmp_path: Path, signer: Signer) -> None:
    glance = Glance(tmp_path)
    assert "image.certificates" in refused(glance, b"bits", signer.properties(b"bits"))
    glance.close()
