"""The progress endpoint's certificate: renewed without a restart, its end told in time."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry

from finetune_operator.progress.certificate import ServingCertificate, not_after

METRIC = "finetune_progress_certificate_expiry_timestamp_seconds"


def write_pair(folder: Path, *, until: datetime, name: str = "progress.svc") -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)] * 40), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def serve(folder: Path) -> tuple[ServingCertificate, CollectorRegistry]:
    registry = CollectorRegistry()
    paths = (str(folder / "tls.crt"), str(folder / "tls.key"))
    return ServingCertificate(*paths, registry=registry), registry


def served(certificate: ServingCertificate) -> datetime:
    """Shake hands in memory and return until when the served certificate is valid."""
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for side in (theirs, ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    der = theirs.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).not_valid_after_utc


@pytest.mark.parametrize("year", [2027, 2049, 2050, 2107])
def test_the_end_of_a_certificate_is_read(tmp_path, year):
    until = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    write_pair(tmp_path, until=until)
    assert not_after((tmp_path / "tls.crt").read_bytes()) == until


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_is_told(pem):
    with pytest.raises(ValueError, match="certificate"):
        not_after(pem)


def test_a_renewed_certificate_is_served_without_a_restart(tmp_path):
    old, new = (datetime(year, 1, 1, tzinfo=UTC) for year in (2027, 2028))
    write_pair(tmp_path, until=old)
    certificate, registry = serve(tmp_path)
    assert served(certificate) == old
    assert registry.get_sample_value(METRIC) == old.timestamp()
    write_pair(tmp_path, until=new)
    certificate.load()
    assert served(certificate) == new
    assert registry.get_sample_value(METRIC) == new.timestamp()


def test_a_certificate_that_does_not_fit_its_key_leaves_the_old_one(tmp_path):
    old = datetime(2027, 1, 1, tzinfo=UTC)
    write_pair(tmp_path, until=old)
    certificate, registry = serve(tmp_path)
    key = (tmp_path / "tls.key").read_bytes()
    write_pair(tmp_path, until=datetime(2028, 1, 1, tzinfo=UTC))
    (tmp_path / "tls.key").write_bytes(key)
    with pytest.raises(ssl.SSLError):
        certificate.load()
    assert served(certificate) == old
    assert registry.get_sample_value(METRIC) == old.timestamp()
