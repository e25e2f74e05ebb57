"""Made-up data about eight cities: a SQuAD of a few paragraphs, and sentences whose words have tags."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

PLACES = [
    ("Oslo", "Norway", "fjord", 700000),
    ("Lima", "Peru", "desert coast", 9700000),
    ("Accra", "Ghana", "Gulf of Guinea", 2600000),
    ("Hanoi", "Vietnam", "Red River", 8000000),
    ("Quito", "Ecuador", "volcano Pichincha", 2700000),
    ("Tunis", "Tunisia", "Lake of Tunis", 600000),
    ("Riga", "Latvia", "Baltic Sea", 610000),
    ("Bern", "Switzerland", "river Aare", 134000),
]
SENTENCES = "{city} is the capital of {country}. It lies beside the {water}, and {people} people live there."
FILLER = " Visitors like the old town, the harbour and the market, which opens early on every day of the week."


def squad_article(place: tuple[str, str, str, int], *, impossible: bool = False, long_context: bool = False) -> dict:
    """Make one SQuAD article about one place, with three questions, and a fourth that has no answer."""
    city, country, water, people = place
    context = SENTENCES.format(city=city, country=country, water=water, people=people)
    if long_context:
        context = FILLER.strip() + FILLER * 2 + " " + context + FILLER * 2
    asked = [
        ("capital", f"What is the capital of {country}?", city),
        ("water", f"What does {city} lie beside?", water),
        ("people", f"How many people live in {city}?", str(people)),
    ]
    qas = [
        {
            "id": f"{city.lower()}-{name}",
            "question": question,
            "answers": [{"text": answer, "answer_start": context.index(answer)}],
        }
        for name, question, answer in asked
    ]
    if impossible:
        for record in qas:
            record["is_impossible"] = False
        qas.append(
            {"id": f"{city.lower()}-mayor", "question": "Who is the mayor?", "answers": [], "is_impossible": True}
        )
    return {"title": city, "paragraphs": [{"context": context, "qas": qas}]}


def squad_json(places: list[tuple[str, str, str, int]], **kwargs: bool) -> dict:
    """Make SQuAD's nested JSON about the places."""
    return {"version": "test", "data": [squad_article(place, **kwargs) for place in places]}


def tagged_words(places: list[tuple[str, str, str, int]]) -> list[tuple[list[str], list[str]]]:
    """Make a sentence about each place: its words and their tags."""
    return [
        (
            [city, "lies", "beside", "the", *water.split(), "."],
            ["B-LOC", "O", "O", "O", "B-WATER", *["I-WATER"] * (len(water.split()) - 1), "O"],
        )
        for city, _, water, _ in places
    ]


def write_tagged(path: Path, sentences: Sequence[tuple[list[str], list[str]]]) -> Path:
    """Write words and tags: texts in a CSV file, lists in JSON lines."""
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            rows = [(" ".join(words), " ".join(tags)) for words, tags in sentences]
            csv.writer(file).writerows([("tokens", "ner_tags"), *rows])
        else:
            file.writelines(json.dumps({"tokens": words, "ner_tags": tags}) + "\n" for words, tags in sentences)
    return path
