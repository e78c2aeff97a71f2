"""Patterns of allow-lists: what they let through, and what cannot pass for something else."""

from __future__ import annotations

import pytest

from finetune_operator.allowlists import matches_image, matches_name, matches_pair, matches_url

IMAGES = [
    ("registry.corp/*", "registry.corp/trainer:1", True),
    ("registry.corp/*", "registry.corp/team/trainer@sha256:ab", True),
    ("registry.corp/**", "registry.corp/team/trainer:1", True),
    ("registry.corp/team-*", "registry.corp/team-a:1", True),
    ("registry.corp/team-*", "registry.corp/team-a/trainer:1", False),
    ("registry.corp/team-*/*", "registry.corp/team-a/trainer:1", True),
    ("registry.corp/*", "registry.corp.evil.io/trainer:1", False),
    ("registry.corp/*", "registry.corp:5000/trainer:1", False),
    ("registry.corp/*", "evil.io/registry.corp/trainer:1", False),
    ("registry.corp/*", "registry.corp", False),
    ("*.corp/trainer:1", "evil.io/x.corp/trainer:1", False),
    ("*.corp/trainer:1", "a.b.corp/trainer:1", True),
    ("*.corp:*/trainer:1", "a.corp:5000/trainer:1", True),
    ("trainer*", "trainer:1", True),
    ("trainer*", "trainer.evil.io/x:1", False),
    ("registry.corp/a/*", "registry.corp/a", False),
    ("*", "any.io/thing/at:all", True),
    ("registry.corp/x:1", "registry_corp/x:1", False),
]


@pytest.mark.parametrize(("pattern", "image", "is_allowed"), IMAGES)
def test_an_image_is_matched_registry_and_path_apart(pattern, image, is_allowed):
    assert matches_image(image, [pattern]) is is_allowed


URLS = [
    ("https://judge.corp/*", "https://judge.corp/v1", True),
    ("https://judge.corp/*", "https://judge.corp", True),
    ("https://judge.corp", "https://judge.corp/", True),
    ("https://judge.corp", "https://judge.corp/v1", False),
    ("https://judge.corp/v1/*", "https://judge.corp/v1", True),
    ("https://judge.corp/v1", "https://judge.corp/v12", False),
    ("https://*.corp.example/*", "https://a.b.corp.example/x/y", True),
    ("https://*.corp.example/*", "https://evil.example/.corp.example/x", False),
    ("https://*.corp.example/*", "https://evil.example?.corp.example/x", False),
    ("https://*.corp.example/*", "https://evil.example#.corp.example/x", False),
    ("https://*.corp.example/*", "https://user@x.corp.example/x", False),
    ("https://*.corp.example/*", "https://evil.example:1.corp.example/x", False),
    ("https://*.corp.example/*", "https://evil.example\\.corp.example/x", False),
    ("https://*.corp.example/*", "https://.corp.example.evil.io/x", False),
    ("https://*.corp.example/*", "https://corp.example/x", False),
    ("https://judge.corp/*", "http://judge.corp/v1", False),
    ("https://judge.corp/*", "https://judge.corp:8443/v1", False),
    ("https://judge.corp/*", "https://judge.corp:443/v1", True),
    ("https://judge.corp:8443/*", "HTTPS://Judge.Corp:8443/v1", True),
    ("https://judge.corp/team-a/*", "https://judge.corp/team-a/../admin", False),
    ("https://judge.corp/team-a/*", "https://judge.corp/team-a/%2e%2e/admin", False),
    ("https://judge.corp/*/v1", "https://judge.corp/a/v1", True),
    ("https://judge.corp/*/v1", "https://judge.corp/a/b/v1", False),
    ("https://judge.corp/*", "https://judge.corp/v1\n", False),
    ("*", "http://any:1/thing?x", True),
]


@pytest.mark.parametrize(("pattern", "url", "is_allowed"), URLS)
def test_a_url_is_matched_scheme_host_port_and_path_apart(pattern, url, is_allowed):
    assert matches_url(url, [pattern]) is is_allowed


PAIRS = [
    ("pool=team-*", "pool", "team-a", True),
    ("pool=team-*", "pool", "other", False),
    ("pool", "pool", "any", True),
    ("pool*", "pool-a", "any", True),
    ("*=shared", "a=b", "shared", True),
    ("nvidia.com/*", "nvidia.com/gpu.product", "H100", True),
    ("*", "any/key", "any", True),
    ("a*", "a/b", "x", False),
    ("key=value", "key", None, False),
    ("key", "key", None, True),
    ("pool=a", "pool=a", "b", False),
]


@pytest.mark.parametrize(("pattern", "key", "value", "is_allowed"), PAIRS)
def test_a_pair_is_matched_key_and_value_apart(pattern, key, value, is_allowed):
    assert matches_pair(key, value, [pattern]) is is_allowed


@pytest.mark.parametrize(
    ("pattern", "name", "is_allowed"),
    [
        ("NCCL_IB_*", "NCCL_IB_HCA", True),
        ("NCCL_IB_*", "NCCL_NET_PLUGIN", False),
        ("NCCL_DEBUG", "NCCL_DEBUG_FILE", False),
        ("A.C", "ABC", False),
        ("*", "ANYTHING", True),
    ],
)
def test_a_name_is_matched_whole(pattern, name, is_allowed):
    assert matches_name(name, [pattern]) is is_allowed
