"""Cloze questions: sentences, the kinds of spans and their question words, and what is no question."""

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helpers.data import PLACES, SENTENCES
from sparsification.tasks.question_answering.cloze import MAX_WORDS, make_clozes, sentence_bounds


def clozes_of(context: str) -> set[tuple[str, str]]:
    """All questions with their answers that some seed makes."""
    made = [cloze for seed in range(50) for cloze in make_clozes(context, 9, random.Random(seed))]
    assert all(context.startswith(cloze.answer, cloze.start) for cloze in made)
    return {(cloze.question, cloze.answer) for cloze in made}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The old harbour was rebuilt in 1814.", {("The old harbour was rebuilt when?", "1814")}),
        (
            "The harbour was closed from 1814 on, they say.",
            {("The harbour was closed from what year on, they say?", "1814")},
        ),
        ("In 1814, the harbour was slowly rebuilt.", {("When the harbour was slowly rebuilt?", "1814")}),
        ("The harbour was rebuilt on 4 May 1814.", {("The harbour was rebuilt when?", "4 May 1814")}),
        ("After May 4, 1814 the harbour was rebuilt.", {("After what date the harbour was rebuilt?", "May 4, 1814")}),
        ("The harbour dates from the 12th century.", {("The harbour dates from what century?", "12th century")}),
        ("The harbour dates back to the 1820s.", {("The harbour dates back to what decade?", "1820s")}),
        ("The harbour dates back to 44 BC.", {("The harbour dates back to what year?", "44 BC")}),
        (
            "It lies there, and 700,000 people live there.",
            {("It lies there, and how many people live there?", "700,000")},
        ),
        ("They have seen three brotherhoods of monks.", {("They have seen how many brotherhoods of monks?", "three")}),
        ("The number of the house is 12.5 today.", {("The number of the house is what number today?", "12.5")}),
        ("About 12.5 percent of them can swim.", {("About what percentage of them can swim?", "12.5 percent")}),
        ("The old harbour did cost $12 million.", {("The old harbour did cost how much?", "$12 million")}),
        ('The paper calls the harbour "a ruin".', {("The paper calls the harbour what?", "a ruin")}),
        ("The harbour was once held by Anna Berg.", {("The harbour was once held by who?", "Anna Berg")}),
        ("The harbour was held by King Olav of Norway.", {("The harbour was held by who?", "King Olav of Norway")}),
        ("The people of the harbour live in Norway.", {("The people of the harbour live where?", "Norway")}),
        ("The people of the harbour speak in English.", {("The people of the harbour speak in what?", "English")}),
        ("The war was ended by the Treaty of Paris.", {("The war was ended by what?", "Treaty of Paris")}),
        ("The harbour is part of Norway's old coast.", {("The harbour is part of whose old coast?", "Norway")}),
        ("The harbour was built by J. R. Berg then.", {("The harbour was built by who then?", "J. R. Berg")}),
        (
            "The harbour was mostly built in Oslo.[12] [citation needed]",
            {("The harbour was mostly built where?", "Oslo")},
        ),
    ],
)
def test_question_word_fits_the_kind_of_the_span(sentence, expected):
    assert clozes_of(sentence) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Visitors like the old town and the harbour.",  # a capital that begins the sentence
        "It was there from 1910-1912, on a 3-metre base.",  # ranges and compounds
        "Is the old harbour still in Norway?",
        "It is in Oslo.",  # too short
        "This is Norway, and it was Norway before that.",  # the question would contain its answer
        "It is open on every Monday that they like.",
        "I think that we are what we eat, too.",
        f"It is {'very ' * MAX_WORDS}hot in Norway.",
        "",
    ],
)
def test_what_is_no_answer_or_no_sentence_gives_no_question(text):
    assert clozes_of(text) == set()


def test_first_word_is_a_name_where_the_paragraph_capitalizes_it_elsewhere():
    sentence = "Oslo was the first city on the coast."
    assert clozes_of(sentence) == set()
    assert clozes_of(f"{sentence} They love Oslo.") == {("What was the first city on the coast?", "Oslo")}
    assert clozes_of("New York was first on the coast.") == {("What was first on the coast?", "New York")}
    assert clozes_of("Former President Obama was there for a former friend.") == {
        ("Former who was there for a former friend?", "President Obama")
    }


def test_pronoun_elsewhere_makes_a_full_name_a_person():
    sentence = "In the end Anna Berg signed it."
    assert clozes_of(sentence) == {("In the end what signed it?", "Anna Berg")}
    assert clozes_of(f"{sentence} She left.") == {("In the end who signed it?", "Anna Berg")}


def test_sentences_end_at_no_abbreviation_and_no_initial():
    sentences = [
        "Dr. A. Berg of St. Ives (c. 1910) met the U.S. envoy, i.e. Mr. Lie.",
        'He said "Go!"[3][note 1]',
        "“Why?” It cost 1.5 million, etc. in all.",
        "A line without a point",
        "The end",
    ]
    text = " \n" + " ".join(sentences[:4]) + "\n\n" + sentences[4] + " \n"
    found = [text[begin:end] for begin, end in sentence_bounds(text)]
    assert found == [*sentences[:2], "“Why?”", "It cost 1.5 million, etc. in all.", *sentences[3:]]


def test_number_of_questions_is_bounded_and_each_is_from_another_sentence():
    context = " ".join(SENTENCES.format(city=a, country=b, water=c, people=d) for a, b, c, d in PLACES)
    for count in (1, 2, 5):
        made = make_clozes(context, count, random.Random(1))
        assert len(made) == count
        assert len({len([end for _, end in sentence_bounds(context) if end <= cloze.start]) for cloze in made}) == count
        assert made == make_clozes(context, count, random.Random(1))
    assert make_clozes(context, 2, random.Random(1)) != make_clozes(context, 2, random.Random(2))


PIECES = st.sampled_from(
    [*"aZ19.,?!\"“”'’()[]$%-–/\n\t ", "The ", " in ", "Oslo ", "1910 ", " of the ", "Dr. ", "东京", "é", "ß"]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example('The a\tThe "a in "', 0)
@given(st.lists(PIECES, max_size=60).map("".join), st.integers(0, 3))
def test_any_text_gives_answers_at_their_places_and_whole_questions(text, seed):
    bounds = sentence_bounds(text)
    assert "".join("".join(text[begin:end] for begin, end in bounds).split()) == "".join(text.split())
    for cloze in make_clozes(text, 3, random.Random(seed)):
        assert text.startswith(cloze.answer, cloze.start)
        assert cloze.answer.strip() == cloze.answer != ""
        assert cloze.question.endswith("?")
