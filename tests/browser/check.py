"""Check in Chromium that a run's pictures are there and readable: Trackio's local dashboard, the report, a comparison.

    make browser-test

trains a tiny model with ``--report_to trackio``, serves the dashboard on this machine and opens it in Chromium. The
report and a page of ``compare`` are opened 1280 and 400 pixels wide. Debian's packages chromium and chromium-driver
are sufficient. ``--screenshots DIR`` keeps what was seen; ``--project NAME`` shows runs that exist already instead of
training.
"""

import argparse
import base64
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
# Panels in the order in which the dashboard shows them, with TRACKIO_PLOT_ORDER from docs/dashboards.md.
FIRST = ("eval/f1", "eval/exact_match", "eval/sparsity")
WANTED = (
    *FIRST,
    *("train/loss", "train/learning_rate", "train/sparsity/encoder"),
    *("train/GMPruningModifier/target_sparsity", "train/GMPruningModifier/mask_changes"),
)
PLOT_ORDER = ",".join([*FIRST, "train/loss", "train/learning_rate", "train/sparsity/encoder"])
WIDTHS = (1280, 400)
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
# Curves in the colors of the report, drawn with a length.
CURVES = """
return [...document.querySelectorAll('figure')].map(figure =>
  [...figure.querySelectorAll('svg path')].filter(path =>
    /stroke: *#|fill: *#/.test(path.getAttribute('style') || '') && path.getTotalLength() > 1).length);
"""
# Elements that reach beyond the page or beyond their own box; a table may scroll within its box.
OVERFLOWING = """
const page = document.documentElement.clientWidth;
return [...document.querySelectorAll('h1, h2, p, pre, dl, dd, figure, svg, .tiles, .scroll, .charts')]
  .filter(e => e.getBoundingClientRect().right > page + 1
    || (e.scrollWidth > e.clientWidth + 1 && !e.matches('.scroll, svg')))
  .map(e => `${e.tagName} ${e.textContent.slice(0, 60)}`);
"""
# Height of the smallest text in pictures, in pixels.
TEXT_HEIGHT = """
return Math.min(...[...document.querySelectorAll('svg text')].filter(text => text.textContent.trim())
  .map(text => Math.min(text.getBoundingClientRect().height, text.getBoundingClientRect().width * 9)));
"""
MIN_TEXT_HEIGHT = 8


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
    command += ["--distill_teacher", "self", "--onnx_export_path", folder / "out/onnx"]
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
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking hide-scrollbars"
    for flag in f"{flags} disable-component-update disable-sync window-size=1700,1150".split():
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as driver:
        yield driver


def check_dashboard(driver: webdriver.Chrome, url: str, only: bool) -> None:
    """Wait until each wanted plot has a curve, and check that no result is drawn as a bar.

    Args:
        driver: of the browser.
        url: of the dashboard, with its project.
        only: show the wanted plots and no others.
    """
    filter_ = "|".join(f"{name}$" for name in WANTED) if only else ""
    driver.get(f"{url}&x_axis=train/global_step&smoothing=0&metric_filter={filter_}")
    until(driver, "return document.querySelectorAll('[data-metric]').length")
    shown = driver.execute_script("return [...document.querySelectorAll('[data-metric]')].map(e => e.dataset.metric)")
    single = [name for name in shown if name.startswith(("eval/onnx", "eval/teacher")) or "latency" in name]
    if tuple(shown[:3]) != FIRST or single:
        sys.exit(f"{driver.current_url}: the first plots must be {FIRST}, and results no plots: {shown}")
    for name in WANTED:
        # A curve is what is neither white nor grey.
        until(
            driver,
            f"""
            const plot = document.querySelector('[data-metric="{name}"]');
            if (plot) plot.scrollIntoView(); // plots out of sight are not drawn
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
    driver.execute_script("document.querySelector('[data-metric]').scrollIntoView({block: 'end'})")


def check_page(driver: webdriver.Chrome, path: Path, width: int) -> None:
    """Check that a page has its pictures, and that nothing of it reaches beyond the page or is too small to read."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(f"file://{path}")
    curves = driver.execute_script(CURVES)
    if not curves or min(curves) == 0:
        sys.exit(f"{path}, {width} pixels: a picture has no curve: {curves}")
    overflowing = driver.execute_script(OVERFLOWING)
    if overflowing or driver.execute_script("return document.documentElement.scrollWidth") > width:
        sys.exit(f"{path}, {width} pixels: too wide: {overflowing}")
    height = driver.execute_script(TEXT_HEIGHT)
    if height < MIN_TEXT_HEIGHT:
        sys.exit(f"{path}, {width} pixels: text in pictures must be {MIN_TEXT_HEIGHT} pixels high, got {height:.1f}")


def photograph(driver: webdriver.Chrome, folder: Path | None, name: str) -> None:
    """Save what the browser shows, of a page of our own from its top to its end."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if driver.current_url.startswith("file:"):
        picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
        (folder / name).write_bytes(base64.b64decode(picture))
    else:
        driver.save_screenshot(str(folder / name))


def until(driver: webdriver.Chrome, script: str) -> None:
    """Wait for a script to return something above zero."""
    deadline = time.monotonic() + SECONDS
    while not driver.execute_script(script):
        if time.monotonic() > deadline:
            page = driver.find_element(By.TAG_NAME, "body").text
            sys.exit(
                f"{driver.current_url}: within {SECONDS} seconds nothing was found by\n{script}\nThe page:\n{page}"
            )
        time.sleep(0.5)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="folder for pictures of the pages")
    parser.add_argument("--project", help="show a project that exists; without it a tiny model is trained")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, browser() as driver:
        out = None
        if args.project is None:
            os.environ["TRACKIO_DIR"] = f"{name}/trackio"
            out = train(Path(name))
        os.environ["TRACKIO_PLOT_ORDER"] = PLOT_ORDER
        import trackio  # reads TRACKIO_DIR when it is imported

        dashboard, url, *_ = trackio.show(args.project or PROJECT, open_browser=False, block_thread=False)
        check_dashboard(driver, f"{url}?project={args.project or PROJECT}", only=args.project is not None)
        photograph(driver, args.screenshots, "dashboard.png")
        dashboard.close()
        if out is not None:
            page = out / "compare.html"
            compare = [sys.executable, "-m", "sparsification", "compare", str(out), "--plot", str(page)]
            subprocess.run(compare, check=True, cwd=ROOT)
            for width in WIDTHS:
                for path in (out / "report.html", page):
                    check_page(driver, path, width)
                    photograph(driver, args.screenshots, f"{path.stem}-{width}.png")
    print("The curves are there, and the pages fit their width.")


if __name__ == "__main__":
    main()
