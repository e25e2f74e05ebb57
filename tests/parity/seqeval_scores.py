"""Scores of seqeval 1.2.2 on random tags: prints what tests/golden/seqeval.json holds.

python3 -m venv .venv-seqeval
.venv-seqeval/bin/pip install seqeval==1.2.2
.venv-seqeval/bin/python tests/parity/seqeval_scores.py > tests/golden/seqeval.json
"""

import json
import random

from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities


def random_tags(chance: random.Random, prefixes: str, words: int) -> list[str]:
    """Tags of one sentence: half of them outside, most prefixes wrong where they stand."""
    return [
        "O" if chance.random() < 0.5 else f"{chance.choice(prefixes)}-{chance.choice(['PER', 'LOC'])}"
        for _ in range(words)
    ]


def case(chance: random.Random, prefixes: str) -> dict[str, object]:
    """Two to five sentences and their scores; a third of the predicted tags are other than the true ones."""
    true = [random_tags(chance, prefixes, chance.randint(1, 8)) for _ in range(chance.randint(2, 5))]
    predicted = [
        [
            tag if chance.random() < 2 / 3 else other
            for tag, other in zip(tags, random_tags(chance, prefixes, len(tags)), strict=True)
        ]
        for tags in true
    ]
    report = classification_report(true, predicted, output_dict=True, zero_division=0)
    return {
        "true": true,
        "predicted": predicted,
        "entities": [[[kind, int(first), int(last)] for kind, first, last in get_entities(tags)] for tags in true],
        "precision": float(precision_score(true, predicted, zero_division=0)),
        "recall": float(recall_score(true, predicted, zero_division=0)),
        "f1": float(f1_score(true, predicted, zero_division=0)),
        "accuracy": float(accuracy_score(true, predicted)),
        "types": {
            kind: {"f1": float(scores["f1-score"]), "number": int(scores["support"])}
            for kind, scores in report.items()
            if "avg" not in kind
        },
    }


def main() -> None:
    """Print forty cases: IOB, IOE and IOBES prefixes in turn."""
    chance = random.Random(0)
    cases = [case(chance, ("BI", "IE", "BIES", "I")[number % 4]) for number in range(40)]
    print("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]")


if __name__ == "__main__":
    main()
