"""Finding the API server: files, precedence, credentials, and errors that say what is missing."""

from __future__ import annotations

import base64

import pytest
import yaml

from finetune_operator.kube.api import connection
from finetune_operator.kube.api.connection import (
    ConnectionConfigError,
    TokenFileCredentials,
    load_connection,
    load_in_cluster,
    load_kubeconfig,
)
from kit.processes.clock import FakeClock


def kubeconfig(tmp_path, name="config", *, user=None, cluster=None, **document):
    path = tmp_path / name
    content = {
        "current-context": "dev",
        "contexts": [
            {"name": "dev", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}},
            {"name": "bare", "context": {"cluster": "c"}},
        ],
        "clusters": [{"name": "c", "cluster": cluster or {"server": "http://127.0.0.1:1/"}}],
        "users": [{"name": "u", "user": user or {}}],
    } | document
    path.write_text(yaml.safe_dump(content))
    return path


async def test_current_context_gives_server_namespace_and_token(tmp_path):
    found = load_kubeconfig([kubeconfig(tmp_path, user={"token": "t"})])
    assert (found.server, found.namespace) == ("http://127.0.0.1:1", "team-a")
    assert await found.credentials.authorization() == "Bearer t"


async def test_named_context_and_no_user(tmp_path):
    found = load_kubeconfig([kubeconfig(tmp_path)], context="bare")
    assert found.namespace == "default"
    assert await found.credentials.authorization() == ""


async def test_basic_auth(tmp_path):
    found = load_kubeconfig([kubeconfig(tmp_path, user={"username": "a", "password": "b"})])
    expected = base64.b64encode(b"a:b").decode()
    assert await found.credentials.authorization() == f"Basic {expected}"


def test_first_file_of_several_wins(tmp_path):
    one = kubeconfig(tmp_path, "one", cluster={"server": "http://one"}, contexts=[])
    two = kubeconfig(tmp_path, "two", cluster={"server": "http://two"})
    assert load_kubeconfig([one, two, tmp_path / "absent"]).server == "http://one"


def test_environment_names_the_files(tmp_path, monkeypatch):
    path = kubeconfig(tmp_path, cluster={"server": "http://env"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}:{path}")
    assert load_connection().server == "http://env"


@pytest.mark.parametrize(
    ("context", "message"),
    [("nope", "no context 'nope' .* there are: bare, dev"), (None, "no cluster 'gone'")],
)
def test_missing_entries_are_named_with_what_there_is(tmp_path, context, message):
    contexts = [
        {"name": "dev", "context": {"cluster": "gone", "user": "u"}},
        {"name": "bare", "context": {}},
    ]
    path = kubeconfig(tmp_path, contexts=contexts)
    with pytest.raises(ConnectionConfigError, match=message):
        load_kubeconfig([path], context=context)


def test_absent_and_broken_files_are_named(tmp_path):
    with pytest.raises(ConnectionConfigError, match="absent"):
        load_kubeconfig([tmp_path / "absent"])
    broken = tmp_path / "broken"
    broken.write_text("a: [")
    with pytest.raises(ConnectionConfigError, match="broken"):
        load_kubeconfig([broken])


@pytest.mark.parametrize(
    ("name", "plugin"),
    [
        ("exec", {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws"}),
        ("auth-provider", {"name": "gcp"}),
    ],
)
def test_user_with_a_credential_program_is_refused_with_what_to_use(tmp_path, name, plugin):
    path = kubeconfig(tmp_path, user={name: plugin})
    with pytest.raises(ConnectionConfigError, match=rf"\({name}\).*tokenFile.*service account"):
        load_kubeconfig([path])


def test_bad_certificate_is_an_error_about_this_server(tmp_path):
    data = base64.b64encode(b"not a certificate").decode()
    cluster = {"server": "https://127.0.0.1:1", "certificate-authority-data": data}
    with pytest.raises(ConnectionConfigError, match=r"127\.0\.0\.1"):
        load_kubeconfig([kubeconfig(tmp_path, cluster=cluster)])


async def test_token_file_is_read_again_each_minute_and_on_refresh(tmp_path):
    path, clock = tmp_path / "token", FakeClock()
    path.write_text("one\n")
    credentials = TokenFileCredentials(path, clock=clock)
    assert await credentials.authorization() == "Bearer one"
    path.write_text("two")
    clock.advance(59)
    assert await credentials.authorization() == "Bearer one"
    clock.advance(2)
    assert await credentials.authorization() == "Bearer two"
    path.write_text("three")
    assert await credentials.authorization(refresh=True) == "Bearer three"
    path.unlink()
    assert await credentials.authorization(refresh=True) == "Bearer three"


async def test_missing_token_file_is_an_error(tmp_path):
    with pytest.raises(ConnectionConfigError, match="token"):
        await TokenFileCredentials(tmp_path / "token").authorization()


def test_in_cluster_needs_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConnectionConfigError, match="not inside a cluster"):
        load_in_cluster(tmp_path)


def test_pod_without_kubeconfig_uses_its_service_account(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("system\n")
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT_DIR", tmp_path)
    monkeypatch.setattr(connection, "_ssl_context", lambda *_: None)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(
        connection, "load_in_cluster", lambda folder=tmp_path: load_in_cluster(folder)
    )
    found = load_connection()
    assert (found.server, found.namespace) == ("https://[fd00::1]:6443", "system")
