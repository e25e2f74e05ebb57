"""Generator of the quickstart's data: synthetic English paragraphs about bridges, ships, museums and other subjects.

Each paragraph states several facts about one subject. It contains two or three years, people and numbers, and the
question determines which of them is the answer. Validation has other subjects than training, and a fifth of its words
and name parts do not occur in training. The files have the format of SQuAD v1.1.

    python quickstart/make_data.py
"""

import argparse
import json
import random
import re
from pathlib import Path

import yaml

HERE = Path(__file__).parent
SLOT = re.compile(r"\{(\w+)\}")
RANGE = re.compile(r"(\d+)-(\d+)(?: by (\d+))?( \w+)?")  # "40-900 metres", "1500-90000 by 100"
SEED = 2026
PARAGRAPHS = {"train": 2640, "validation": 240}
QUESTIONS_PER_PARAGRAPH = 4
PARAGRAPHS_PER_ARTICLE = 20


class Writer:
    """Random names, numbers and words, each at most once in a paragraph.

    Args:
        lists: the word lists of templates.yaml.
        rng: the only source of randomness.
        training: exclude the last words of each list and a fifth of the surnames, towns and rivers.
    """

    def __init__(self, lists: dict[str, list[str]], rng: random.Random, training: bool):
        self.rng = rng
        self.training = training
        self.lists = lists
        self.drawn: set[str] = set()

    def value(self, kind: str) -> str:
        """Draw a value that the paragraph does not contain yet."""
        while (value := self._draw(kind)) in self.drawn:
            pass
        self.drawn.add(value)
        return value

    def years(self, ranges: dict[str, str]) -> dict[str, str]:
        """Draw increasing years: the first range is in years, each other one in years after the previous year."""
        year, drawn = 0, {}
        for slot, span in ranges.items():
            year += int(self._draw(span))
            drawn[slot] = str(year)
        return drawn

    def _draw(self, kind: str) -> str:
        pick = self.rng.choice
        match kind:
            case "surname" | "town" | "river":
                heads, tails = self.lists[f"{kind}_head"], self.lists[f"{kind}_tail"]
                head, tail = self.rng.randrange(len(heads)), self.rng.randrange(len(tails))
                if self.training and (head + tail) % 5 == 0:
                    return self._draw(kind)
                return heads[head] + tails[tail]
            case "person":
                return f"{self._draw('first_name')} {self._draw('surname')}"
            case "money":
                return f"{self.rng.randint(2, 99)},000 {pick(['crowns', 'guilders', 'pounds'])}"
        if span := RANGE.fullmatch(kind):
            low, high, step, unit = span.groups()
            number = self.rng.randrange(int(low), int(high) + 1, int(step or 1))
            return f"{number:,}{unit or ''}" if step else f"{number}{unit or ''}"
        words = self.lists[kind]
        return pick(words[: len(words) * 9 // 10] if self.training else words)


def fill(template: str, values: dict[str, str], offset: int = 0) -> tuple[str, dict[str, int]]:
    """Replace the slots of a template by values.

    Returns:
        The text, and the start of the value of each slot, plus ``offset``, in characters.
    """
    text, starts, end = "", {}, 0
    for slot in SLOT.finditer(template):
        text += template[end : slot.start()]
        starts[slot[1]] = offset + len(text)
        text += values[slot[1]]
        end = slot.end()
    return text + template[end:], starts


def paragraph(kind: dict, writer: Writer, used_names: set[str]) -> dict:
    """Generate a paragraph with its questions, about a subject with a name that is not in ``used_names``."""
    rng = writer.rng
    while True:
        writer.drawn.clear()
        parts = {slot: writer.value(slot) for slot in SLOT.findall(kind["name"])}
        name = fill(kind["name"], parts)[0]
        if name not in used_names:
            break
    used_names.add(name)
    values = {"name": name} | writer.years(kind["years"])
    values |= {slot: writer.value(what) for slot, what in kind["slots"].items()}

    told = sorted(rng.sample(range(len(kind["sentences"])), rng.randint(2, 3)))
    context, starts = "", {}
    for variants in [kind["opening"], *(kind["sentences"][group] for group in told)]:
        sentence, found = fill(rng.choice(variants), values, offset=len(context))
        sentence = sentence[0].upper() + sentence[1:]
        context += sentence + " "
        starts |= found
    asked = rng.sample(sorted(starts.keys() - {"name"}), QUESTIONS_PER_PARAGRAPH)
    return {
        "context": context.rstrip(),
        "qas": [
            {
                "question": fill(rng.choice(kind["questions"][slot]), values)[0],
                "answers": [{"text": values[slot], "answer_start": starts[slot]}],
            }
            for slot in asked
        ],
    }


def make(split: str, paragraphs: int, used_names: set[str]) -> str:
    """Generate one split, "train" or "validation", as JSON."""
    source = yaml.safe_load((HERE / "templates.yaml").read_text(encoding="utf-8"))
    writer = Writer(source["lists"], random.Random(f"{SEED} {split}"), training=split == "train")
    kinds = list(source["kinds"])
    articles = []
    for number in range(paragraphs // PARAGRAPHS_PER_ARTICLE):
        kind = kinds[number % len(kinds)]
        article = [paragraph(source["kinds"][kind], writer, used_names) for _ in range(PARAGRAPHS_PER_ARTICLE)]
        for place, item in enumerate(article):
            for count, qa in enumerate(item["qas"]):
                qa["id"] = f"{split}-{number}-{place}-{count}"
        articles.append({"title": f"{kind.capitalize()}s, part {number // len(kinds) + 1}", "paragraphs": article})
    return json.dumps({"version": "1.1", "data": articles}, ensure_ascii=False, separators=(",", ":")) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, default=HERE)
    output_dir = parser.parse_args().output_dir
    used_names: set[str] = set()
    for split, paragraphs in PARAGRAPHS.items():
        text = make(split, paragraphs, used_names)
        (output_dir / f"{split}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
