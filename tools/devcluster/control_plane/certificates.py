"""Certificates of a cluster: one authority, short ECDSA keys, made in milliseconds.

Pure: names in, PEM bytes out. `write_certificates` is the only function that touches the disk.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID_DAYS = 365


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    """A self-signed certificate authority that can issue certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> KeyPair:
        """The authority's own certificate and key."""
        return KeyPair(
            certificate=self.certificate.public_bytes(serialization.Encoding.PEM),
            key=_key_pem(self.key),
        )

    def issue_client(self, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """A client certificate: Kubernetes reads the user from CN and the groups from O."""
        return self._issue(_subject(user, groups), ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def issue_server(self, common_name: str, alternative_names: Sequence[str]) -> KeyPair:
        """A server certificate; `alternative_names` may hold DNS names and IP addresses."""
        names = x509.SubjectAlternativeName([_general_name(name) for name in alternative_names])
        return self._issue(_subject(common_name), ExtendedKeyUsageOID.SERVER_AUTH, names)

    def _issue(
        self,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        alternative_names: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject, self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if alternative_names is not None:
            builder = builder.add_extension(alternative_names, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return KeyPair(
            certificate=certificate.public_bytes(serialization.Encoding.PEM), key=_key_pem(key)
        )


def create_authority(common_name: str) -> Authority:
    """A new self-signed authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(common_name)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, key=key)


def load_authority(folder: Path) -> Authority:
    """The authority that `write_certificates` put into `folder`."""
    certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Authority(certificate=certificate, key=key)


def create_signing_key() -> KeyPair:
    """A bare key pair for service-account tokens; `certificate` holds the public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return KeyPair(certificate=public, key=_key_pem(key))


def create_control_plane_certificates(server_names: Sequence[str]) -> dict[str, KeyPair]:
    """Everything a control plane needs, by file stem.

    Args:
        server_names: DNS names and addresses the API server is reached by.
    """
    authority = create_authority("finetune-devcluster")
    front_proxy = create_authority("finetune-devcluster-front-proxy")
    return {
        "ca": authority.pem(),
        "front-proxy-ca": front_proxy.pem(),
        "front-proxy-client": front_proxy.issue_client("front-proxy-client"),
        "apiserver": authority.issue_server("kube-apiserver", server_names),
        "apiserver-kubelet-client": authority.issue_client(
            "kube-apiserver-kubelet-client", ["system:masters"]
        ),
        "admin": authority.issue_client("admin", ["system:masters"]),
        "controller-manager": authority.issue_client("system:kube-controller-manager"),
        "scheduler": authority.issue_client("system:kube-scheduler"),
        "service-account": create_signing_key(),
    }


def write_certificates(folder: Path, pairs: dict[str, KeyPair]) -> None:
    """Write ``<name>.crt`` and ``<name>.key`` (owner only) for every pair."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, pair in pairs.items():
        (folder / f"{name}.crt").write_bytes(pair.certificate)
        key = folder / f"{name}.key"
        key.touch(mode=0o600)
        key.write_bytes(pair.key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A node in a virtual machine may have a clock that is a little behind.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _subject(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    # SEC1, not PKCS8: kube-controller-manager reads both, older tools only this one.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
