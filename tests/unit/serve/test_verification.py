"""Which versions pass, and why the others are refused."""

import json
import random
from dataclasses import asdict

import pytest

from finetune_trainer.serve.verification import (
    NUM_QUESTIONS,
    Stored,
    choose_questions,
    judge,
    read_samples,
)

LABELS = ["billing", "refund", "delivery", "other"]
WORDS = [f"word{number}" for number in range(500)]


def labelled(number, *, right=0.9, seed=0):
    """Questions with labels: the tuned model is mostly right, the base model chats."""
    rng = random.Random(seed)
    stored = []
    for each in range(number):
        truth = rng.choice(LABELS)
        tuned = truth if rng.random() < right else rng.choice(LABELS)
        stored.append(
            Stored(
                prompt=[{"role": "user", "content": f"Ticket {each}"}],
                references=(truth,),
                base=f"This is about {rng.choice(LABELS)}, I think",
                tuned=tuned,
                group=str(each),
            )
        )
    return stored


def written(number, *, num_words=60, seed=0):
    """Questions with long answers."""
    rng = random.Random(seed)
    return [
        Stored(
            prompt=f"Summarise {each}",
            references=(" ".join(rng.choices(WORDS, k=num_words)),),
            base=" ".join(rng.choices(WORDS, k=num_words)),
            tuned=" ".join(rng.choices(WORDS, k=num_words)),
            group=str(each),
        )
        for each in range(number)
    ]


def agreeing(number):
    """Questions that base and tuned model answer alike."""
    return [
        Stored(prompt=f"{each}", base="yes", tuned="yes", references=("yes",))
        for each in range(number)
    ]


def tuned_of(questions):
    return [each.tuned for each in questions]


def diverging(text, at, rng):
    """An answer that parts from another at a word and is another text from there."""
    words = text.split()
    return " ".join([*words[:at], *rng.choices(WORDS, k=len(words) - at)])


@pytest.mark.parametrize("is_same_engine", [True, False])
def test_the_evaluated_version_is_verified(is_same_engine):
    questions = labelled(50)
    verdict = judge(questions, tuned_of(questions), is_same_engine=is_same_engine)
    assert (verdict.reason, verdict.num_equal, verdict.num_like_base) == (None, 50, 0)
    assert verdict.metric == "exactMatch"
    assert verdict.score == pytest.approx(
        sum(each.tuned in each.references for each in questions) / 50
    )


@pytest.mark.parametrize("is_same_engine", [True, False])
def test_an_adapter_with_other_module_names_answers_like_the_base(is_same_engine):
    questions = labelled(50)
    verdict = judge(questions, [each.base for each in questions], is_same_engine=is_same_engine)
    assert verdict.reason == "AnswersLikeBase"
    assert (verdict.num_equal, verdict.num_like_base) == (0, 50)
    assert len(verdict.differing) == 5


def test_the_base_on_another_engine_still_counts_as_the_base():
    questions = written(50)
    rng = random.Random(1)
    answers = [diverging(each.base, 30, rng) for each in questions]
    assert judge(questions, answers, is_same_engine=False).reason == "AnswersLikeBase"


@pytest.mark.parametrize("is_same_engine", [True, False])
@pytest.mark.parametrize("make", [labelled, written])
def test_the_adapter_of_another_tenant_answers_differently(make, is_same_engine):
    questions, others = make(50, seed=1), make(50, seed=2)
    verdict = judge(questions, tuned_of(others), is_same_engine=is_same_engine)
    assert verdict.reason == "AnswersDiffer"


def test_another_adapter_with_a_like_score_is_refused_on_the_same_engine():
    questions = labelled(50, right=0.8)
    answers = [
        each.tuned if number % 10 else LABELS[(LABELS.index(each.tuned) + 1) % 4]
        for number, each in enumerate(questions)
    ]
    verdict = judge(questions, answers, is_same_engine=True)
    assert (verdict.reason, verdict.num_equal) == ("AnswersDiffer", 45)


def test_a_constant_answer_with_a_lucky_score_is_refused():
    rng = random.Random(3)
    truths = ["other" if rng.random() < 0.8 else "refund" for _ in range(60)]
    questions = [
        Stored(
            prompt=f"Ticket {number}",
            references=(truth,),
            base="I do not know",
            tuned=truth if rng.random() < 0.85 else "refund",
            group=str(number),
        )
        for number, truth in enumerate(truths)
    ]
    verdict = judge(questions, ["other"] * 60, is_same_engine=False)
    assert verdict.score == pytest.approx(truths.count("other") / 60)
    assert verdict.reason == "AnswersDiffer"
    assert "do not follow the questions" in verdict.message


def test_one_tie_of_arithmetic_in_fifty_is_allowed_and_two_are_not():
    questions = labelled(50, right=1.0)
    answers = tuned_of(questions)
    answers[7] = next(label for label in LABELS if label != answers[7])
    assert judge(questions, answers, is_same_engine=True).reason is None
    answers[8] = next(label for label in LABELS if label != answers[8])
    assert judge(questions, answers, is_same_engine=True).reason == "AnswersDiffer"


def test_long_answers_may_part_late_and_not_early():
    questions, rng = written(50), random.Random(2)
    answers = tuned_of(questions)
    late = [*(diverging(answer, 50, rng) for answer in answers[:10]), *answers[10:]]
    assert judge(questions, late, is_same_engine=True).reason is None
    early = [diverging(each.tuned, 3, rng) for each in questions]
    assert judge(questions, early, is_same_engine=True).reason == "AnswersDiffer"


def test_another_engine_may_differ_within_the_interval_of_the_score():
    questions = labelled(50, right=0.9)
    answers = [
        LABELS[(LABELS.index(each.tuned) + 1) % 4] if number in (3, 14) else each.tuned
        for number, each in enumerate(questions)
    ]
    assert judge(questions, answers, is_same_engine=True).reason == "AnswersDiffer"
    assert judge(questions, answers, is_same_engine=False).reason is None


def test_another_engine_that_scores_outside_the_interval_is_refused():
    questions = labelled(50, right=1.0)
    answers = [
        each.tuned if number % 4 else LABELS[(LABELS.index(each.tuned) + 1) % 4]
        for number, each in enumerate(questions)
    ]
    verdict = judge(questions, answers, is_same_engine=False, metrics=["macroF1", "exactMatch"])
    assert verdict.reason == "AnswersDiffer"
    assert "exactMatch is 0.74" in verdict.message


def test_fewer_questions_are_all_asked():
    stored = labelled(9)
    questions = choose_questions(stored, seed="abc")
    assert len(questions) == 9
    assert judge(questions, tuned_of(questions), is_same_engine=True).reason is None


def test_base_and_tuned_equal_everywhere_is_nothing_to_compare():
    stored = agreeing(60)
    questions = choose_questions(stored, seed="abc")
    verdict = judge(questions, tuned_of(questions), is_same_engine=True)
    assert (verdict.reason, verdict.num_asked) == ("NothingToCompare", 50)
    assert judge([], [], is_same_engine=True).reason == "NothingToCompare"


def test_the_one_question_that_tells_them_apart_must_be_the_tuned_models():
    stored = agreeing(49)
    stored.append(Stored(prompt="last", base="yes", tuned="no", references=("no",)))
    answers = tuned_of(stored)
    assert judge(stored, answers, is_same_engine=True).reason is None
    answers[-1] = "yes"
    assert judge(stored, answers, is_same_engine=True).reason == "AnswersLikeBase"


def test_questions_that_tell_base_and_tuned_apart_are_asked_first():
    alike = [Stored(prompt=f"alike {n}", base="yes", tuned="yes") for n in range(100)]
    apart = [Stored(prompt=f"apart {n}", base="yes", tuned="no") for n in range(30)]
    lost = [Stored(prompt=f"lost {n}", base="yes", tuned="", is_cut=True) for n in range(30)]
    chosen = choose_questions([*lost, *alike, *apart], seed="abc")
    assert len(chosen) == NUM_QUESTIONS
    assert {each.prompt for each in chosen[:30]} == {each.prompt for each in apart}
    assert all(each in alike for each in chosen[30:])
    shuffled = random.Random(0).sample([*alike, *apart], 130)
    assert choose_questions(shuffled, seed="abc") == chosen
    assert choose_questions(shuffled, seed="xyz") != chosen


def test_an_answer_that_the_limit_cut_needs_the_same_beginning():
    cut = Stored(prompt="p", base="b", tuned="one two", is_cut=True)
    assert cut.accepts("one two three")
    assert not cut.accepts("one")
    assert not Stored(prompt="p", base="b", tuned="one two").accepts("one two three")


def test_samples_are_read_with_their_answers_composed_and_plain_text_left_out():
    message = {"role": "user", "content": "x"}
    row = {"prompt": [message], "references": ["a"], "base": "b ", "tuned": "e\u0301"}
    plain = {"prompt": "", "references": [], "base": "", "tuned": ""}
    rows = [row | {"group": "g", "cut": ["tuned"]}, plain]
    (stored,) = read_samples("\n".join(map(json.dumps, rows)) + "\n")
    assert asdict(stored) == {
        "prompt": rows[0]["prompt"],
        "tools": None,
        "references": ("a",),
        "base": "b",
        "tuned": "\u00e9",
        "group": "g",
        "is_cut": True,
        "line": 1,
    }
    with pytest.raises(ValueError, match="line 1"):
        read_samples('{"prompt": "x"}')
