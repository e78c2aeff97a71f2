"""Certificates as the components check them."""

from __future__ import annotations

import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devcluster.control_plane.certificates import (
    create_authority,
    create_control_plane_certificates,
    load_authority,
    write_certificates,
)


@pytest.fixture(scope="module")
def pairs():
    return create_control_plane_certificates(["kubernetes.default.svc", "127.0.0.1", "10.96.0.1"])


def certificate(pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def attributes(cert: x509.Certificate, oid) -> list[str]:
    return [each.value for each in cert.subject.get_attributes_for_oid(oid)]


@pytest.mark.parametrize(
    ("name", "user", "groups"),
    [
        ("admin", "admin", ["system:masters"]),
        ("controller-manager", "system:kube-controller-manager", []),
        ("scheduler", "system:kube-scheduler", []),
        ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", ["system:masters"]),
    ],
)
def test_a_client_is_who_kubernetes_expects(pairs, name, user, groups):
    cert = certificate(pairs[name])
    assert attributes(cert, NameOID.COMMON_NAME) == [user]
    assert attributes(cert, NameOID.ORGANIZATION_NAME) == groups
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_server_certificate_covers_names_and_addresses(pairs):
    names = certificate(pairs["apiserver"]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["kubernetes.default.svc"]
    assert names.value.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("10.96.0.1"),
    ]


def test_all_but_the_aggregators_come_from_the_one_authority(pairs):
    authority = certificate(pairs["ca"])
    front_proxy = certificate(pairs["front-proxy-ca"])
    certificate(pairs["front-proxy-client"]).verify_directly_issued_by(front_proxy)
    for name in ("apiserver", "admin", "scheduler", "controller-manager"):
        certificate(pairs[name]).verify_directly_issued_by(authority)


def test_keys_on_disk_are_for_the_owner_only(tmp_path, pairs):
    write_certificates(tmp_path / "pki", pairs)
    for name in pairs:
        assert stat.S_IMODE((tmp_path / "pki" / f"{name}.key").stat().st_mode) == 0o600


def test_an_authority_read_back_issues_for_the_same_cluster(tmp_path):
    authority = create_authority("test")
    write_certificates(tmp_path, {"ca": authority.pem()})
    later = load_authority(tmp_path).issue_client("late", ["team"])
    certificate(later).verify_directly_issued_by(authority.certificate)
