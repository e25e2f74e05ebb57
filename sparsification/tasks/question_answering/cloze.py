"""Cloze questions from plain text: in a sentence, a question word replaces a span that looks like an answer.

"Oslo became the capital in 1814." becomes "Oslo became the capital when?", and its answer is "1814". Questions of this
kind alone teach question answering (Lewis et al. 2019, arXiv:1906.04980), and help where labelled ones are few (Dhingra
et al. 2018, arXiv:1804.00720). The rules are made for English.
"""

import random
import re
from dataclasses import dataclass

from sparsification.tasks.question_answering.cloze_spans import TITLES, Span, answer_spans

MIN_WORDS, MAX_WORDS = 6, 40  # of a sentence
_SHORT = TITLES | frozenset("Jr Sr No Nos Vol Fig Op Mt Ft vs etc ca approx e.g i.e cf al Inc Ltd Co Corp".split())
_NOTE = re.compile(r"\[[\w ]{1,20}\]")  # [1], [citation needed]
_BOUNDARY = re.compile(rf"[.!?][\"'”’)\]]*(?:{_NOTE.pattern})*\s+|\n\s*")


@dataclass(frozen=True)
class Cloze:
    """A question and its answer."""

    question: str
    answer: str
    start: int  # first character of the answer in the paragraph


def make_clozes(context: str, count: int, chance: random.Random) -> list[Cloze]:
    """Make cloze questions from a paragraph, each from a sentence of its own.

    Args:
        context: the paragraph.
        count: number of questions; fewer if not as many sentences have a span that looks like an answer.
        chance: chooses the sentences and the spans.

    Returns:
        Questions in the order of their sentences.
    """
    sentences = [(begin, context[begin:end]) for begin, end in sentence_bounds(context)]
    made: list[Cloze] = []
    for begin, sentence in chance.sample(sentences, len(sentences)):
        if len(made) == count:
            break
        if MIN_WORDS <= len(sentence.split()) <= MAX_WORDS and not sentence.endswith("?"):
            spans = answer_spans(sentence, context)
            made += [_cloze(begin, sentence, chance.choice(spans))] if spans else []
    return sorted(made, key=lambda cloze: cloze.start)


def _cloze(begin: int, sentence: str, span: Span) -> Cloze:
    before, after = (_NOTE.sub("", part) for part in (sentence[: span.first], sentence[span.last :]))
    word = span.word
    if not before.strip("\"'“‘(["):
        word = word.capitalize()
        if span.word in ("when", "where"):
            after = after.removeprefix(",")  # "In 1814, Oslo became" -> "When Oslo became"
    question = " ".join(f"{before}{word}{after}".split()).rstrip(".!:;, ")
    return Cloze(f"{question}?", sentence[span.start : span.end], begin + span.start)


def sentence_bounds(text: str) -> list[tuple[int, int]]:
    """Split text into sentences.

    Args:
        text: a paragraph.

    Returns:
        First character of each sentence, and the one after its last; without white space at the ends.
    """
    bounds, begin = [], len(text) - len(text.lstrip())
    for match in _BOUNDARY.finditer(text, begin):
        ends_line = "\n" in match[0]
        word = re.search(r"[^\W\d_][\w.'’]*$", text[begin : match.start()])
        short = word is not None and (word[0] in _SHORT or len(word[0].rsplit(".", 1)[-1]) == 1)
        following = text[match.end() : match.end() + 2].lstrip("\"'“‘([")[:1]
        if ends_line or (not short and not following.islower()):
            bounds.append((begin, begin + len(text[begin : match.end()].rstrip())))
            begin = match.end()
    if text[begin:].strip():
        bounds.append((begin, len(text.rstrip())))
    return bounds
