"""What tests share: paths, made-up data, tiny models, recipes, trainers and command lines.

No test module imports another one; what two of them need stands here. Nothing is downloaded.
"""

import os
from pathlib import Path

# Before anything of Hugging Face is imported: no test uses the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
