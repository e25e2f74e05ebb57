"""Precision, recall and F1 of named entities, as the CoNLL evaluation counts them.

An entity counts as found where its first word, its last word and its type are all right (Tjong Kim Sang & De Meulder
2003, CoNLL-2003 shared task). The rules for broken tag sequences are those of the task's ``conlleval`` script, which
the package ``seqeval`` follows, too: an I- tag without an entity to continue begins one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

OUTSIDE = "O"
PREFIXES = "BIES"  # begin, inside, end, single


class Entity(NamedTuple):
    """A named entity of one sentence."""

    kind: str  # e.g. "PER"
    first: int  # index of its first word
    last: int  # index of its last word


def entities(tags: Sequence[str]) -> list[Entity]:
    """Find the entities that tags mark, in any of the schemes IOB1, IOB2, IOE and IOBES.

    A tag is "O", or a prefix of ``PREFIXES``, a hyphen and a type. A tag without prefix counts as inside.

    Args:
        tags: one for each word of a sentence.

    Returns:
        The entities, in the order of the words.
    """
    found: list[Entity] = []
    before, before_kind = OUTSIDE, ""
    for index, tag in enumerate(tags):
        prefix, kind = _split(tag)
        if prefix != OUTSIDE:
            continues = before in ("B", "I") and prefix in ("I", "E") and kind == before_kind
            first = found.pop().first if continues else index
            found.append(Entity(kind, first, index))
        before, before_kind = prefix, kind
    return found


def _split(tag: str) -> tuple[str, str]:
    """Split a tag into its prefix, or "O", and its type."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, _, kind = tag.partition("-")
    if prefix in PREFIXES and len(prefix) == 1:
        return prefix, kind
    return "I", tag


def entity_scores(
    predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], by_type: bool = False
) -> dict[str, float]:
    """Score the tags of sentences.

    Args:
        predicted: tags of each sentence.
        true: the right tags, as many in each sentence.
        by_type: whether to score each type of entity as well.

    Returns:
        ``precision``, ``recall`` and ``f1`` of the entities of all sentences together, and ``accuracy``, the share of
        the words with the right tag; with ``by_type`` also ``<type>_precision``, ``<type>_recall``, ``<type>_f1`` and
        ``<type>_number``, the number of true entities. All but the last in [0, 1]; 0.0 where there is nothing to count.

    Raises:
        ValueError: the sentences do not have the same lengths.

    >>> entity_scores([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]])
    {'precision': 1.0, 'recall': 0.5, 'f1': 0.6666666666666666, 'accuracy': 0.6666666666666666}
    """
    if [len(tags) for tags in predicted] != [len(tags) for tags in true]:
        raise ValueError("predicted and true tags must have the same number of sentences and of words in each")
    counts: dict[str, Counter[str]] = {"found": Counter(), "true": Counter(), "correct": Counter()}
    for own, right in zip(predicted, true, strict=True):
        found, there = entities(own), entities(right)
        counts["found"].update(entity.kind for entity in found)
        counts["true"].update(entity.kind for entity in there)
        counts["correct"].update(entity.kind for entity in set(found) & set(there))
    scores = _scores(*(counter.total() for counter in counts.values()))
    words = sum(map(len, true))
    same = sum(own == right for pair in zip(predicted, true, strict=True) for own, right in zip(*pair, strict=True))
    scores["accuracy"] = same / words if words else 0.0
    for kind in sorted(counts["found"].keys() | counts["true"].keys()) if by_type else ():
        of_kind = _scores(*(counter[kind] for counter in counts.values()))
        scores |= {f"{kind}_{name}": value for name, value in of_kind.items()}
        scores[f"{kind}_number"] = counts["true"][kind]
    return scores


def _scores(found: int, true: int, correct: int) -> dict[str, float]:
    """Precision, recall and F1 from numbers of entities."""
    precision = correct / found if found else 0.0
    recall = correct / true if true else 0.0
    f1 = 2 * correct / (found + true) if found + true else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}
