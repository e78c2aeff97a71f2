"""Which versions pass, and why the others are refused."""

import json
import math
import random
from dataclasses import asdict

import pytest

from finetune_trainer.serve import verification
from finetune_trainer.serve.verification import (
    NUM_QUESTIONS,
    TIE,
    TIE_OF_OTHER_ENGINE,
    Answer,
    Stored,
    Token,
    choose_questions,
    read_answer,
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
        )
        for each in range(number)
    ]


def judge(questions, texts, **settings):
    """Judge texts of an engine that tells no log-probabilities."""
    answers = [Answer(text=verification.normalize(text)) for text in texts]
    return verification.judge(questions, answers, **settings)


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
        )
        for number, truth in enumerate(truths)
    ]
    verdict = judge(questions, ["other"] * 60, is_same_engine=False)
    assert verdict.score == pytest.approx(truths.count("other") / 60)
    assert verdict.reason == "AnswersDiffer"


@pytest.mark.parametrize("is_same_engine", [True, False])
def test_one_answer_in_sixty_may_differ_without_a_tie_and_two_may_not(is_same_engine):
    questions = labelled(60, right=1.0)
    answers = tuned_of(questions)
    answers[7] = next(label for label in LABELS if label != answers[7])
    assert judge(questions, answers, is_same_engine=is_same_engine).reason is None
    assert judge(questions[:59], answers[:59], is_same_engine=is_same_engine).reason is not None
    answers[8] = next(label for label in LABELS if label != answers[8])
    assert judge(questions, answers, is_same_engine=is_same_engine).reason == "AnswersDiffer"


@pytest.mark.parametrize("num_words", [0, 20, 60, 200])
@pytest.mark.parametrize("is_same_engine", [True, False])
def test_a_long_common_frame_hides_no_changed_decision(num_words, is_same_engine):
    rng = random.Random(1)
    questions, answers = [], []
    for number in range(60):
        frame = " ".join(rng.choices(WORDS, k=num_words))
        tuned, other = rng.sample(LABELS, k=2)
        questions.append(Stored(prompt=f"{number}", base="chat", tuned=f"{frame} {tuned}".strip()))
        answers.append(f"{frame} {tuned if number % 10 else other}".strip())
    verdict = judge(questions, answers, is_same_engine=is_same_engine)
    assert (verdict.reason, verdict.num_equal) == ("AnswersDiffer", 54)


def test_answers_may_part_where_two_tokens_were_as_likely():
    questions = written(60)
    rng = random.Random(2)
    texts = [diverging(each.tuned, 3, rng) for each in questions]
    near = [Answer(text=text, gap=TIE) for text in texts]
    judged = [verification.judge(questions, near, is_same_engine=same) for same in (True, False)]
    assert [each.reason for each in judged] == [None, None]
    wider = [Answer(text=text, gap=TIE_OF_OTHER_ENGINE) for text in texts]
    judged = [verification.judge(questions, wider, is_same_engine=same) for same in (True, False)]
    assert [each.reason for each in judged] == ["AnswersDiffer", None]
    far = [Answer(text=text, gap=1.0) for text in texts]
    assert verification.judge(questions, far, is_same_engine=False).reason == "AnswersDiffer"


def test_ties_in_reasoning_forgive_only_a_tenth():
    questions = labelled(60, right=1.0)

    def answers(number):
        return [
            Answer(text=other_than(each.tuned), gap=0.0, is_late=True)
            if place < number
            else Answer(text=each.tuned)
            for place, each in enumerate(questions)
        ]

    found = [verification.judge(questions, answers(n), is_same_engine=True) for n in (7, 8)]
    assert [each.reason for each in found] == [None, "AnswersDiffer"]


def other_than(label):
    return next(each for each in LABELS if each != label)


def tokens(*rows, end="<|end|>"):
    """Tokens with what else was likely, as text and distance."""
    read = [(row, {}) if isinstance(row, str) else row for row in [*rows, end]]
    return [
        Token(
            text=text,
            logprob=-0.5,
            likeliest=[(text, -0.5), *((other, -0.5 - gap) for other, gap in others.items())],
        )
        for text, others in read
    ]


@pytest.mark.parametrize(
    ("tuned", "text", "said", "gap"),
    [
        pytest.param("a red fox", "a blue", tokens("a", (" blue", {" red": 0.2})), 0.2, id="word"),
        pytest.param(
            "a red", "a blue", tokens("a", (" blue", {" green": 0.0})), math.inf, id="third"
        ),
        pytest.param("a red", "a blue", tokens("a", ("blue", {"red": 0.2})), 0.2, id="no spaces"),
        pytest.param("refund", "refuse", tokens(("ref", {"refund": 0.1}), "use"), 0.1, id="before"),
        pytest.param("refund", "refuse", tokens(("refuse", {"ref": 0.1})), 0.1, id="shorter"),
        pytest.param(
            "refund", "refuse", tokens(("ref", {"re": 0.0}), "use"), math.inf, id="agrees"
        ),
        pytest.param("yes", "yes sir", tokens("yes", (" sir", {"<|end|>": 0.1})), 0.1, id="ends"),
        pytest.param(
            "yes", "yes sir", tokens("yes", (" sir", {" or": 0.1})), math.inf, id="goes on"
        ),
        pytest.param(
            "yes sir", "yes", tokens("yes", end=("<|end|>", {" sir": 0.1})), 0.1, id="ended early"
        ),
        pytest.param("a\nb", "a. B", tokens("a", (".", {"\n": 0.2}), " B"), 0.2, id="line"),
        pytest.param("\u0416", "x", tokens(("x", {"": 0.2})), 0.2, id="part of a character"),
        pytest.param("j", "x", tokens(("x", {"": 0.2})), math.inf, id="whole character"),
        pytest.param("no", "yes", [], None, id="no log-probabilities"),
    ],
)
def test_the_first_token_that_differs_shows_how_near_the_stored_answer_was(tuned, text, said, gap):
    stored = Stored(prompt="p", base="b", tuned=tuned)
    answer = read_answer(stored, text, said, has_ended=True)
    assert answer.text == text
    assert answer.gap == (None if gap is None else pytest.approx(gap))


def test_what_comes_after_the_first_difference_does_not_count():
    stored = Stored(prompt="p", base="b", tuned="a frame, then refund")
    said = tokens("a", " frame", ", then", (" billing", {" refund": 3.0}), (" now", {" refund": 0}))
    answer = read_answer(stored, "a frame, then billing now", said, has_ended=True)
    assert answer.gap == pytest.approx(3.0)


def test_a_tie_in_the_reasoning_is_told_as_such():
    stored = Stored(prompt="p", base="b", tuned="no")
    said = tokens("<think>", ("hm", {"well": 0.1}), "</think>", ("yes", {"no": 2.0}))
    answer = read_answer(stored, "yes", said, has_ended=True)
    assert (answer.gap, answer.is_late) == (pytest.approx(0.1), True)
    said = tokens("<think>", ("hm", {"well": 0.1}), "</think>", ("yes", {"no": 0.2}))
    assert not read_answer(stored, "yes", said, has_ended=True).is_late


def test_fewer_questions_are_all_asked():
    stored = labelled(9)
    questions = choose_questions(stored, seed="abc")
    assert len(questions) == 9
    assert judge(questions, tuned_of(questions), is_same_engine=True).reason is None


def test_base_and_tuned_equal_everywhere_is_nothing_to_compare():
    stored = agreeing(60)
    questions = choose_questions(stored, seed="abc")
    verdict = judge(questions, tuned_of(questions), is_same_engine=True)
    assert (verdict.reason, verdict.num_asked) == ("NothingToCompare", 60)
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
    cut = Stored(prompt="p", base="b", tuned="one two three four five", is_cut=True)
    assert cut.accepts("one two three four five six")
    assert not cut.accepts("one two three four")
    assert not Stored(prompt="p", base="b", tuned="one two").accepts("one two three")


def test_any_answer_may_begin_like_a_short_cut_one_so_it_must_be_equal():
    cut = Stored(prompt="p", base="b", tuned="A", is_cut=True)
    assert cut.accepts("A")
    assert cut.accepts("A\ufffd")
    assert not cut.accepts("A totally different text")
    assert choose_questions([cut], seed="abc") == [cut]
    assert choose_questions([cut], seed="abc", is_limit_known=False) == []


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
        "is_cut": True,
        "line": 1,
    }
    with pytest.raises(ValueError, match="line 1"):
        read_samples('{"prompt": "x"}')
