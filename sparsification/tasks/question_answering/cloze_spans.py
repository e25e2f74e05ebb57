"""Spans of an English sentence that look like answers, and the question word that can replace each.

Dates, percentages, sums of money, quoted text, runs of capitalized words, and counts, found by regular expressions and
short word lists. A wrong question word costs little: teacher and student see the same question.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

MAX_NAME_WORDS, MAX_QUOTED_WORDS = 6, 8

_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d|20)\d\d"
_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_LARGE = "(?: (?:hundred|thousand|million|billion|trillion))?"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_WORDS = f"(?i:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|{_TENS})"
# Not a part of a range (1910-1912), of a compound (3-metre) or of another number, and no number of a note ([12]).
_LEFT, _RIGHT = r"(?<![\w.,/$£€\[–-])", r"(?![\w%–-]|[.,/]\d)"
_DATES = {
    "what date": rf"(?:{_DAY} (?:of )?{_MONTH}|{_MONTH} {_DAY})(?:,? {_YEAR})?",
    "what month": rf"{_MONTH} {_YEAR}",
    "what century": r"\d{1,2}(?:st|nd|rd|th) century",
    "what decade": r"(?:1\d|20)\d0s",
    "what year": rf"(?:\d{{1,4}} (?:BCE?|CE|AD)|{_YEAR})",
}
_AMOUNTS = {
    "what percentage": rf"{_LEFT}{_NUMBER} ?(?:%|per ?cent\b)",
    "how much": rf"(?<![\w$£€])[$£€] ?{_NUMBER}{_LARGE}{_RIGHT}",
}
_COUNT = rf"{_LEFT}(?:{_NUMBER}|{_WORDS}){_LARGE}{_RIGHT}"
_QUOTED = r'["“](\w[^"“”]*?)[\s,.;:!?]*["”]'
# Initials and abbreviations with their points; words with their hyphens and apostrophes.
_WORD = re.compile(r"(?:[A-Z]\.)+[A-Z]?(?!\w)|[^\W_]+(?:[-'’&][^\W_]+)*")

TITLES = frozenset(
    "Mr Mrs Ms Dr Prof Professor Sir Lady Lord King Queen Prince Princess Emperor Empress Sultan Tsar Duke Pope Saint "
    "St Bishop Rabbi President Chancellor Senator Governor General Gen Captain Capt Colonel Col".split()
)
_THINGS = frozenset(
    "Academy Act Agency Airport Army Association Award Bank Battle Bridge Cathedral Championship Church City College "
    "Committee Company Corporation Council County Court Cup Department Empire Games Group Institute Island Islands "
    "Kingdom Lake League Ministry Mount Mountains Museum Navy Ocean Olympics Party Press Prize Province Republic River "
    "School Sea Series Society State States Station Street Times Treaty Union University Valley War World".split()
)
_PLACES = frozenset("New North South East West Northern Southern Eastern Western San Los Las El Great Central".split())
_DEEDS = frozenset("said wrote died married argued told believed born thought suggested claimed explained".split())
_LINKS = frozenset("of the de la von van der du del al bin di da".split())
_CALENDAR = frozenset([*_MONTH[3:-1].split("|"), *"Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()])
_ERAS = frozenset(["BC", "BCE", "CE", "AD"])
# After these words, a number or a name before them stands alone; at the beginning of a sentence, they are no names.
_FUNCTION = frozenset(
    "a about after all also although an and are around as at be because been before between both but by could despite "
    "during each even every few for from had has have he her his however i if in into is it its many may more most my "
    "near no nor not of off on one onto or other our over per several she since so some such than that the their then "
    "there these they this those though through thus to today under until up upon via was we were what when where "
    "whether which while who will with within without would yet you".split()
)


@dataclass(frozen=True)
class Span:
    """An answer in a sentence, and the question word that can replace it."""

    start: int  # characters of the answer
    end: int
    first: int  # characters to replace: the answer, perhaps with quotes, an article or a preposition
    last: int
    word: str


def answer_spans(sentence: str, context: str) -> list[Span]:
    """Find the spans of a sentence that look like answers.

    Args:
        sentence: one sentence.
        context: its paragraph. How it writes the first word of the sentence elsewhere tells whether this is a name.

    Returns:
        Spans that do not overlap, in the order of the sentence. Text that occurs twice in the sentence is left out,
        because the question would contain its answer.
    """
    found: list[Span] = []
    candidates = (
        *(_dates(sentence), _amounts(sentence), _quoted(sentence)),
        *(_names(sentence, context), _counts(sentence)),
    )
    for span in chain.from_iterable(candidates):
        if all(span.last <= other.first or other.last <= span.first for other in found):
            found.append(span)
    once = [span for span in found if sentence.count(sentence[span.start : span.end]) == 1]
    return sorted(once, key=lambda span: span.start)


def _dates(sentence: str) -> Iterator[Span]:
    for word, pattern in _DATES.items():
        for match in re.finditer(_LEFT + pattern + _RIGHT, sentence):
            start, end = match.span()
            before, preposition, article = _words_before(sentence, start)
            if before in ("in", "on"):
                yield Span(start, end, preposition, end, "when")
            elif not match[0].isdigit() or (before in _FUNCTION and article == start):  # not "the 1910 season"
                yield Span(start, end, article, end, word)


def _amounts(sentence: str) -> Iterator[Span]:
    for word, pattern in _AMOUNTS.items():
        for match in re.finditer(pattern, sentence):
            yield Span(*match.span(), *match.span(), word)


def _quoted(sentence: str) -> Iterator[Span]:
    for match in re.finditer(_QUOTED, sentence):
        if len(match[1].split()) <= MAX_QUOTED_WORDS:
            yield Span(*match.span(1), *match.span(), "what")


def _counts(sentence: str) -> Iterator[Span]:
    for match in re.finditer(_COUNT, sentence):
        if re.fullmatch(_YEAR, match[0]):
            continue
        counts = not _stands_alone(sentence[match.end() :])
        yield Span(*match.span(), *match.span(), "how many" if counts else "what number")


def _names(sentence: str, context: str) -> Iterator[Span]:
    for words in _capitalized_runs(sentence, context):
        start, end = words[0].start(), words[-1].end()
        before, preposition, article = _words_before(sentence, start)
        names, rest = [word[0] for word in words], sentence[end:]
        if sentence[:start].endswith(("/", "-", "–")) or rest.startswith(("/", "-", "–")):
            continue  # part of a compound
        if names[-1].endswith(("'s", "’s")):
            yield Span(start, end - 2, article, end, "whose")
        elif re.match(r"['’] \w", rest):
            yield Span(start, end, article, end + 1, "whose")
        elif before in ("in", "near", "at") and _is_place(names, rest):
            yield Span(start, end, preposition, end, "where")
        else:
            yield Span(start, end, article, end, "who" if _is_person(names, before, rest, context) else "what")


def _is_place(names: list[str], rest: str) -> bool:
    """Whether a name after "in" is a place: neither a thing, nor a language, nor an adjective before its noun."""
    language = re.search("(?:ish|ese|ian|Latin|Greek|French|German|Arabic|Hebrew|Dutch)$", names[-1])
    return not _THINGS & {*names} and not language and _stands_alone(rest)


def _is_person(names: list[str], before: str, rest: str, context: str) -> bool:
    if _THINGS & {*names} or names[0] in _PLACES:
        return False
    after = re.match(r",? (?:was |had |has )?(\w+)", rest)
    if TITLES & {*names[:-1]} or (after and after[1] in {"who", *_DEEDS}):
        return True
    full_name = len(names) in (2, 3) and not _LINKS & {*names}
    return full_name and (before == "by" or re.search(r"\b(?i:he|she|his|her)\b", context) is not None)


def _stands_alone(rest: str) -> bool:
    """Whether no noun follows: the text after a span goes on with a function word, punctuation or a capital."""
    after = re.match(r" ([a-z]+)", rest)
    return after is None or after[1] in _FUNCTION


def _words_before(sentence: str, start: int) -> tuple[str, int, int]:
    """The word before a span and its article, in small letters; where this word begins; where the article begins.

    Without such a word or article, it begins where the span does.
    """
    article = re.search(r"\b(?:the|an?) $", sentence[:start], re.IGNORECASE)
    begin = article.start() if article else start
    word = re.search(r"\b(\w+) $", sentence[:begin])
    return (word[1].lower(), word.start(), begin) if word else ("", begin, begin)


def _capitalized_runs(sentence: str, context: str) -> Iterator[list[re.Match]]:
    """Words of each run of capitalized words, perhaps with linking words like "of" inside."""
    words = list(_WORD.finditer(sentence))
    run: list[re.Match] = []
    for word in words:
        gap = sentence[run[-1].end() : word.start()] if run else ""
        if run and not (gap == " " or (gap == ". " and run[-1][0] in TITLES)):
            yield from _trimmed(run)
            run = []
        capitalized = word[0][0].isupper() and (word is not words[0] or _begins_with_name(sentence, word, context))
        if capitalized or (run and word[0] in _LINKS):
            run.append(word)
        else:
            yield from _trimmed(run)
            run = []
    yield from _trimmed(run)


def _begins_with_name(sentence: str, first: re.Match, context: str) -> bool:
    """Whether the first word of a sentence would be capitalized elsewhere, too."""
    word = re.escape(first[0])
    if first[0].lower() in _FUNCTION or re.search(rf"\b{word.lower()}\b", context):
        return False
    return bool(re.match(" [A-Z]", sentence[first.end() :]) or re.search(rf"[a-z,;] {word}\b", context))


def _trimmed(run: list[re.Match]) -> Iterator[list[re.Match]]:
    """The run without linking words at its end, if it can be an answer."""
    while run and run[-1][0] in _LINKS:
        run = run[:-1]
    if 0 < len(run) <= MAX_NAME_WORDS and not all(word[0] in _CALENDAR | _ERAS or len(word[0]) == 1 for word in run):
        yield run
