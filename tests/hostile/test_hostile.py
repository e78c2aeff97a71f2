"""Objects that mean to break out are refused or do no harm; harmless ones pass."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from finetune_trainer.errors import TrainerError
from finetune_trainer.prepare.reading.formats.template import PromptTemplate
from hostile import trial
from hostile.corpus import TEMPLATE_BOMBS, TEMPLATE_ESCAPES
from hostile.generator import KINDS, attacks
from hostile.harmless import documented, harmless
from kit.processes.eventually import patient

NUM_ATTACKS = 40 * len(KINDS)


@pytest.fixture(scope="module")
def table():
    return trial.run(NUM_ATTACKS, seed=1)


def test_no_attack_breaks_out(table):
    broken = [f"{attack.kind} on {place.name}: {why}" for attack, place, why in table.broken]
    assert broken == []
    assert table.tried.total() == NUM_ATTACKS


def test_attacks_of_every_kind_are_refused(table):
    assert (table.by_schema + table.by_admission).keys() == KINDS.keys()


def test_what_the_examples_and_guides_show_and_variations_of_it_pass(table):
    assert table.refused_harmless == []
    assert table.num_harmless == NUM_ATTACKS // 2


def test_the_harmless_objects_are_those_of_the_examples_and_guides():
    names = {name for name, _, _ in documented()}
    for path in ("examples/01-headline-sentiment/job.yaml", "examples/04-three-experiments",
                 "docs/how-to/metrics.md", "docs/how-to/queues.md", "README.md"):  # fmt: skip
        assert any(name.startswith(path) for name in names), path
    assert len(names) > 25


def test_an_attack_is_written_again_from_its_seed():
    def first(seed):
        return [attack.body for attack in itertools.islice(attacks(seed), 200)]

    assert first(3) == first(3) != first(4)
    assert list(itertools.islice(harmless(3), 200)) == list(itertools.islice(harmless(3), 200))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("text", TEMPLATE_ESCAPES)
def test_no_template_leaves_its_sandbox(text):
    try:
        rendered = PromptTemplate(text, where="template").render({"prompt": "hello"})
    except TrainerError:
        return
    except Exception as error:
        assert type(error).__name__ == "BadRow"  # noqa: PT017
        return
    # What a sandbox may not show it leaves out.
    assert not any(word in rendered for word in ("<class", "<function", "uid=", "environ", "root:"))


@pytest.mark.parametrize("text", TEMPLATE_BOMBS, ids=lambda text: text[:24])
def test_no_template_holds_up_the_operator_that_reads_it(text):
    from finetune_api.messages.prompt_template import find_chat_template_error, find_template_error

    with within(patient(10)):  # tenths of a second on a machine that does nothing else
        find_template_error(text)
        find_chat_template_error(text)
