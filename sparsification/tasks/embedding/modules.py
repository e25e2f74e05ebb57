"""How token embeddings become a sentence embedding, as sentence-transformers keeps it beside a model.

``modules.json`` lists the steps after the encoder: pooling, whose mode is in a folder of its own, and normalization.
Both are read and written, so that ``SentenceTransformer(FOLDER)`` loads what this project saves.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import cached_file

from sparsification.atomic_io import atomic_write_text
from sparsification.tasks.errors import DataError

MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
# Read beside it and written again as they are: the similarity and prompts of the model, its maximum length.
_KEPT = ("config_sentence_transformers.json", LENGTH_FILE)
_KINDS = "sentence_transformers.models."
# Pooling modes, and the switches that files of all versions of sentence-transformers have for them.
_SWITCHES = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass(frozen=True)
class SentenceModules:
    """The steps after the encoder, and the files of sentence-transformers beside a model."""

    pooling: str = "mean"  # a key of _SWITCHES
    normalize: bool = True  # whether embeddings get length 1
    max_length: int | None = None  # tokens of a text, of sentence_bert_config.json; None: the tokenizer's
    kept: tuple[tuple[str, str], ...] = ()  # names and texts of files to write again

    def embed(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pool token embeddings.

        Args:
            hidden: the encoder's last hidden state, (batch, tokens, width).
            mask: (batch, tokens), 0 where padded.

        Returns:
            Sentence embeddings in fp32, (batch, width).
        """
        hidden, mask = hidden.float(), mask.to(hidden.device)[:, :, None].float()
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.pooling == "max":
            pooled = hidden.masked_fill(mask == 0, -torch.inf).amax(dim=1)
        elif self.pooling == "lasttoken":
            positions = torch.arange(hidden.shape[1], device=hidden.device) * mask[:, :, 0]
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), positions.argmax(dim=1)]
        else:
            lengths = mask.sum(dim=1).clamp(min=1.0)
            pooled = (hidden * mask).sum(dim=1) / (lengths if self.pooling == "mean" else lengths.sqrt())
        return torch.nn.functional.normalize(pooled, dim=1) if self.normalize else pooled

    def save(self, folder: Path, width: int) -> None:
        """Write the files beside a saved model or its export.

        Args:
            folder: of the model.
            width: of its embeddings.
        """
        switches = {switch: mode == self.pooling for mode, switch in _SWITCHES.items()}
        texts = dict(self.kept) | {"1_Pooling/config.json": _dump({"word_embedding_dimension": width, **switches})}
        steps = [("Transformer", ""), ("Pooling", "1_Pooling")]
        steps += [("Normalize", "2_Normalize")] if self.normalize else []
        listed = [
            {"idx": index, "name": str(index), "path": path, "type": _KINDS + kind}
            for index, (kind, path) in enumerate(steps)
        ]
        for name, text in (texts | {MODULES_FILE: _dump(listed)}).items():
            (folder / name).parent.mkdir(exist_ok=True)
            atomic_write_text(folder / name, text)


def load_modules(
    name: str | Path, cache_dir: str | None = None, token: str | None = None, revision: str = "main"
) -> SentenceModules:
    """Read the files of a model; a model without them gets mean pooling and normalization.

    Args:
        name: folder of the model, or its name on the hub.
        cache_dir: folder for downloads.
        token: access token of the hub.
        revision: branch, tag or commit on the hub.

    Raises:
        DataError: a file is damaged, or names a step or a pooling mode that is not supported.
    """
    read = functools.partial(_read, str(name), cache_dir=cache_dir, token=token, revision=revision)
    texts = {file: read(file) for file in (MODULES_FILE, *_KEPT)}
    kept = tuple((file, text) for file in _KEPT if (text := texts[file]) is not None)
    try:
        length = json.loads(texts[LENGTH_FILE] or "{}").get("max_seq_length")
        if texts[MODULES_FILE] is None:
            return SentenceModules(max_length=length, kept=kept)
        kinds = {step["type"].rpartition(".")[2]: step["path"] for step in json.loads(texts[MODULES_FILE] or "[]")}
        unknown = sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"})
        if unknown or "Pooling" not in kinds:
            raise DataError(
                f"{name}: {MODULES_FILE} must list Transformer, Pooling and at most Normalize, got {', '.join(kinds)}"
            )
        config = json.loads(read(f"{kinds['Pooling']}/config.json") or "{}")
        return SentenceModules(_mode(str(name), config), "Normalize" in kinds, length, kept)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name}: its files of sentence-transformers cannot be read: {error!r}") from error


def _mode(name: str, config: Mapping[str, Any]) -> str:
    """The mode in the configuration of a Pooling module, of old versions or new ones."""
    modes = config.get("pooling_mode", [mode for mode in config if mode.startswith("pooling_mode") and config[mode]])
    names = {switch: mode for mode, switch in _SWITCHES.items()}
    found = [names.get(mode, mode) for mode in ([modes] if isinstance(modes, str) else modes)]
    if len(found) != 1 or found[0] not in _SWITCHES:
        raise DataError(
            f"{name}: the pooling mode must be one of {', '.join(_SWITCHES)}, got {', '.join(found) or 'none'}"
        )
    return found[0]


def _read(name: str, file: str, **hub_settings: Any) -> str | None:
    """Text of a file of a model, None where the model has none."""
    try:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub_settings)
    except OSError:  # the hub cannot be reached: the model's own files have been found before
        return None
    return None if path is None else Path(path).read_text(encoding="utf-8")


def _dump(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
