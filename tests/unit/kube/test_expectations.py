"""A reconcile waits for its own writes, but not for ever."""

from __future__ import annotations

import pytest

from finetune_operator.kube.expectations import Expectations
from finetune_operator.kube.store import Store
from support.clock import FakeClock
from support.objects import pod


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def expectations(clock):
    return Expectations(clock, patience_seconds=2.0)


def test_nothing_expected_is_met(expectations):
    assert not expectations.unmet("job")


@pytest.mark.parametrize("version", [7, 8])
def test_cache_that_has_the_write_or_newer_meets_it(expectations, version):
    store = Store()
    expectations.expect("job", store, pod("a", 7))
    store.observe(None, pod("a", 6))
    assert expectations.unmet("job")
    store.observe(None, pod("a", version))
    assert not expectations.unmet("job")


def test_object_that_came_and_went_meets_it(expectations):
    store = Store()
    expectations.expect("job", store, pod("a", 7))
    store.mark_observed("", 9)
    assert not expectations.unmet("job")


def test_absorbed_answer_meets_it_at_once(expectations):
    store = Store()
    expectations.expect("job", store, pod("a", 7))
    store.absorb(pod("a", 7))
    assert not expectations.unmet("job")


def test_deletion_is_met_when_this_object_is_gone(expectations):
    store = Store()
    store.observe("ADDED", pod("a", 1, uid="one"))
    expectations.expect_gone("job", store, pod("a", 1, uid="one"))
    assert expectations.unmet("job")
    store.observe("ADDED", pod("a", 5, uid="two"))
    assert not expectations.unmet("job")


def test_patience_ends(expectations, clock):
    expectations.expect("job", Store(), pod("a", 7))
    clock.advance(1.9)
    assert expectations.unmet("job")
    clock.advance(0.2)
    assert not expectations.unmet("job")


def test_owners_are_apart_and_can_be_forgotten(expectations):
    store = Store()
    expectations.expect("one", store, pod("a", 7))
    expectations.expect("two", store, pod("b", 8))
    assert not expectations.unmet("three")
    expectations.forget("one")
    assert not expectations.unmet("one")
    assert expectations.unmet("two")


def test_same_name_in_two_caches_is_two_expectations(expectations):
    jobs, pods = Store(), Store()
    expectations.expect("job", jobs, pod("a", 7))
    expectations.expect("job", pods, pod("a", 9))
    jobs.observe(None, pod("a", 7))
    assert expectations.unmet("job")
    pods.observe(None, pod("a", 9))
    assert not expectations.unmet("job")
