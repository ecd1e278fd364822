"""P(yes) is the share of yes among yes and no where the answer says it."""

import math

import pytest

from itercomp_rl.judges.vlm.probability import MIN_MASS, Token, p_on_scale, p_yes


def token(text: str, **choices: float) -> Token:
    return Token(text=text, choices={word.replace("_", " "): math.log(p) for word, p in choices.items()})


def test_it_is_normalised_over_yes_and_no_in_all_their_ways_of_being_written() -> None:
    # (.3 + .2 + .1) / (.3 + .2 + .1 + .2 + .1) = .6 / .9
    found = p_yes([token("Yes", Yes=0.3, yes=0.2, _YES=0.1, No=0.2, _no=0.1, Maybe=0.1)])
    assert found == pytest.approx(2 / 3)


def test_yes_and_no_exchanged_give_the_complement() -> None:
    one, other = p_yes([token("No", Yes=0.2, No=0.6)]), p_yes([token("Yes", No=0.2, Yes=0.6)])
    assert one is not None and other is not None
    assert one + other == pytest.approx(1)


def test_a_further_yes_never_lowers_it() -> None:
    fewer = p_yes([token("No", Yes=0.2, No=0.6)])
    more = p_yes([token("No", Yes=0.2, No=0.6, yes=0.05)])
    assert fewer is not None and more is not None
    assert more > fewer


def test_the_answer_follows_the_reasoning() -> None:
    thought = [token("<think>"), token("No", No=0.9, Yes=0.1), token(" cup."), token("</think>"), token("\n\n")]
    assert p_yes([*thought, token("Yes", Yes=0.75, No=0.25), token(".")]) == pytest.approx(0.75)
    # The chat template opened the thinking before the answer began.
    assert p_yes([*thought[1:], token("Yes", Yes=0.75, No=0.25)]) == pytest.approx(0.75)
    assert p_yes(thought[:3]) is None  # cut off


def test_a_sentence_counts_by_its_last_word_only_if_that_is_yes_or_no() -> None:
    sentence = [token("The"), token(" answer"), token(" is"), token(" yes", _yes=0.6, _no=0.2), token(".")]
    assert p_yes(sentence) == pytest.approx(0.75)
    assert p_yes([token("There"), token(" is", No=0.9), token(" no", _no=0.9), token(" cup")]) is None


def test_a_first_word_that_is_neither_counts_if_yes_and_no_were_likely() -> None:
    assert p_yes([token("Sure", Yes=0.3, No=0.1, Sure=0.6)]) == pytest.approx(0.75)
    assert p_yes([token("A", Yes=MIN_MASS / 4, No=MIN_MASS / 4)]) is None
    assert p_yes([]) is None


@pytest.mark.parametrize(
    ("answer", "p"),
    [
        ("1", 0.0),
        ("5", 1.0),
        ("**3**", 0.5),
        ("4/5", 0.75),
        ("4 out of 5.", 0.75),
        ("<think>maybe 2 or 3</think>\n4", 0.75),
        ("6", None),
        ("0", None),
        ("2 or 3", None),
        ("45", None),
        ("yes", None),
        ("", None),
        ("<think>5", None),
    ],
)
def test_a_number_on_the_scale_is_a_probability_and_anything_else_is_none(answer: str, p: float | None) -> None:
    assert p_on_scale(answer) == p
