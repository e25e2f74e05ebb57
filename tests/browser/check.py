"""Does a browser show the curves of a run: on Trackio's local dashboard, and in the run's own report?

    make browser-test

trains a tiny model with ``--report_to trackio``, serves the dashboard on this machine and opens it in Chromium, for
which Debian's packages chromium and chromium-driver will do. ``--screenshot FILE.png --project NAME`` photographs the
dashboard of runs that are there already.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

ROOT = Path(__file__).resolve().parent.parent.parent
WANTED = (
    *("eval/exact_match", "eval/f1", "eval/sparsity"),
    *("train/loss", "train/learning_rate", "train/sparsity/encoder"),
    *("train/GMPruningModifier/target_sparsity", "train/GMPruningModifier/mask_changes"),
)
PROJECT = "browser-test"
SECONDS = 60  # that a page may take
RECIPE = """
modifiers:
  - !EpochRangeModifier
    end_epoch: 2.0
  - !GMPruningModifier
    params: ['re:bert.encoder.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 0.0
    end_epoch: 1.5
"""


def train(folder: Path) -> Path:
    """Train a tiny model by a recipe with Trackio watching, and give its output folder."""
    sys.path.insert(0, str(ROOT / "tests"))
    from transformers import BertConfig, BertForQuestionAnswering

    from helpers.data import PLACES, squad_json
    from helpers.models import build_tiny_tokenizer

    tokenizer = build_tiny_tokenizer()
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForQuestionAnswering(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES)))
    (folder / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, ROOT / "run_qa.py", "--model_name_or_path", folder / "model"]
    command += ["--train_file", folder / "train.json", "--validation_file", folder / "train.json"]
    command += ["--do_train", "--do_eval", "--eval_strategy", "epoch", "--logging_steps", "1", "--use_cpu"]
    command += ["--max_seq_length", "64", "--doc_stride", "16", "--recipe", folder / "recipe.yaml"]
    command += ["--output_dir", folder / "out", "--report_to", "trackio", "--project", PROJECT]
    subprocess.run(list(map(str, command)), check=True, cwd=folder)
    return folder / "out"


@contextlib.contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a screen."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        sys.exit("browser-test needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for flag in f"{flags} disable-component-update disable-sync window-size=1700,1150".split():
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver


def show_curves(driver: webdriver.Chrome) -> None:
    """Have the dashboard show what is wanted, and wait until each plot has a curve in it."""
    until(driver, "return document.querySelectorAll('[data-metric]').length")
    field = driver.find_element(By.XPATH, "//*[contains(text(), 'Metric Filter')]/following::input[1]")
    field.send_keys("|".join(f"{name}$" for name in WANTED))
    for name in WANTED:
        # A curve is what is neither white nor grey.
        until(
            driver,
            f"""
            const plot = document.querySelector('[data-metric="{name}"]');
            if (plot) plot.scrollIntoView(); // those out of sight are not drawn
            const canvas = plot && plot.querySelector('canvas');
            if (!canvas) return 0;
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let colored = 0;
            for (let i = 0; i < pixels.length; i += 4)
                if (pixels[i + 3] && Math.max(...pixels.slice(i, i + 3)) - Math.min(...pixels.slice(i, i + 3)) > 30)
                    colored += 1;
            return colored;
            """,
        )


def until(driver: webdriver.Chrome, script: str) -> None:
    """Wait for a script to return something above zero."""
    deadline = time.monotonic() + SECONDS
    while not driver.execute_script(script):
        if time.monotonic() > deadline:
            page = driver.find_element(By.TAG_NAME, "body").text
            sys.exit(f"{driver.current_url}: nothing came of\n{script}\nThe page says:\n{page}")
        time.sleep(0.5)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--screenshot", type=Path, metavar="FILE.png", help="photograph the dashboard")
    parser.add_argument("--project", help="of runs that are there already; without it a tiny model is trained")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, browser() as driver:
        out = None
        if args.project is None:
            os.environ["TRACKIO_DIR"] = f"{name}/trackio"
            out = train(Path(name))
        import trackio  # looks at TRACKIO_DIR when it is imported

        dashboard, url, *_ = trackio.show(args.project or PROJECT, open_browser=False, block_thread=False)
        driver.get(f"{url}?project={args.project or PROJECT}")
        show_curves(driver)
        if args.screenshot is not None:
            driver.execute_script("document.querySelector('[data-metric]').scrollIntoView({block: 'end'})")
            driver.save_screenshot(str(args.screenshot))
        dashboard.close()
        if out is not None:
            driver.get(f"file://{out}/report.html")
            until(
                driver,
                "return Math.min(...[...document.querySelectorAll('polyline')].map(line => line.getTotalLength()))",
            )
    print("The curves are there.")


if __name__ == "__main__":
    main()
