"""Can any text at all, given as a recipe, run code, read a file, hang, or end otherwise than in an error of ours?

    make fuzz FUZZ=-max_total_time=1800

libFuzzer (through Atheris) mutates texts towards code of the recipe's reader that none has reached yet. Each text goes
all the way of a recipe that comes from somewhere: it is read, written and read again, its plan and its doubts are told
(``python -m sparsification check``), and a small BERT is prepared by it. Allowed are a recipe, an error of ours in
printable lines, and one second; an audit hook of Python sees files, processes, sockets and code. What is found is
written to ``findings/`` in the working folder, one file each, and the run goes on.

tests/robustness.md tells what the runs have found.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402, F401

with atheris.instrument_imports(include=["sparsification", "yaml"]):
    from sparsification.check.report import lint
    from sparsification.check.timeline import Timeline, text_lines
    from sparsification.errors import SparsificationError
    from sparsification.manager import ScheduledModifierManager
    from sparsification.recipe.loader import load_recipe
    from sparsification.targets import Targets

from helpers import GOLDEN  # noqa: E402
from helpers.hostile_recipes import HOSTILE  # noqa: E402
from helpers.recipes import EVERYTHING  # noqa: E402
from helpers.trainers import make_model  # noqa: E402

SECONDS = 1.0  # of the processor, instrumentation included
FORBIDDEN = ("open", "exec", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "code.")


class Guard:
    """Notes what a recipe makes Python do, while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        if self.armed and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {args!r}"[:200])


def follow(text: str, arguments: str | None, guard: Guard) -> None:
    """Take a recipe all the way."""
    recipe = load_recipe(text + "\n", arguments)
    again = load_recipe(recipe.to_yaml())
    assert again.modifiers == recipe.modifiers, "what is written is not what was read"
    if len(recipe.modifiers) > 50:
        return  # a minute of honest work
    manager = ScheduledModifierManager(recipe)
    timeline = Timeline(manager, 100)
    text_lines(timeline)
    guard.armed = False  # torch's seeding walks the stack, and reads its lines
    model = make_model()
    guard.armed = True
    targets = Targets(model)
    manager.initialize(model)
    lint(recipe, timeline, targets)
    for step in (0, 1, 150):
        manager.learning_rate(timeline.training_step(step / 100), 0, 1e-3)


def main() -> None:
    guard = Guard()
    findings = Path("findings")
    findings.mkdir(exist_ok=True)

    def report(data: bytes, kind: str, words: str) -> None:
        name = f"{kind}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
        if not (findings / name).exists():
            (findings / name).write_bytes(data)
            (findings / f"{name}.txt").write_text(words)
            print(f"finding {name}: {words[-300:]}", flush=True)

    def one_input(data: bytes) -> None:
        text, _, arguments = data.decode("utf-8", "replace").partition("\x01")
        start = time.process_time()
        guard.seen.clear()
        guard.armed = True
        try:
            follow(text, arguments or None, guard)
        except SparsificationError as error:
            guard.armed = False
            if not str(error).replace("\n", "").isprintable():
                report(data, "message", "not printable: " + ascii(str(error))[:300])
        except Exception as error:
            guard.armed = False
            where = traceback.extract_tb(error.__traceback__)[-1]
            report(data, "traceback", f"{type(error).__name__} at {where.filename}:{where.lineno}: {error}"[:500])
        guard.armed = False
        if guard.seen:
            report(data, "audit", guard.seen[0])
        if time.process_time() - start > SECONDS:
            report(data, "slow", f"{len(data)} bytes: {data[:80]!r}")

    corpus = Path("corpus")
    corpus.mkdir(exist_ok=True)
    seeds = [path.read_text().split("---")[1] for path in (ROOT / "recipes").glob("bert*.md")]
    recorded = json.loads((GOLDEN / "recipes/recipes.json").read_text())
    seeds += [f"{case['recipe']}\x01{case['recipe_args'] or ''}" for case in recorded.values() if "recipe" in case]
    seeds += [*HOSTILE.values(), *EVERYTHING.values()]
    for seed in seeds:
        if len(seed) < 3000:
            data = seed.encode("utf-8", "replace")
            (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    torch.set_num_threads(1)
    for recipe in EVERYTHING.values():  # what is imported late is imported now
        follow(recipe, None, guard)
    guard.armed = False
    atheris.Setup(
        [*sys.argv, "-max_len=4096", f"-dict={Path(__file__).parent / 'recipe.dict'}", str(corpus)], one_input
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
