"""Arguments of a task's script: the model and the data, with the flags of Transformers' scripts."""

import logging
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict, load_dataset
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sparsification.model_io import tokenizer_limit
from sparsification.tasks.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

logger = logging.getLogger(__name__)

READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}  # of datasets


@dataclass
class TaskArguments:
    """The model and the data, with the flags of Transformers' scripts."""

    model_name_or_path: str = field(metadata={"help": "Folder of a saved model, or its name on the hub."})
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the configuration, if it is not the model's."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the tokenizer, if it is not the model's."}
    )
    use_fast_tokenizer: bool = field(default=True, metadata={"help": "Use the tokenizers library where possible."})
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for downloads."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the hub."})
    token: str | None = field(default=None, metadata={"help": "Access token of the hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the model's repository. Only for code that you have read."}
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Replace a head of another size by a new one."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Name of a data set on the hub, or its folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: CSV, JSON, JSON lines or parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Evaluation data, in the same formats."})
    test_file: str | None = field(
        default=None, metadata={"help": "Data for --do_predict, in the same formats; labels may be missing."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Make the features again, even if they are cached."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that make the features."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Maximum number of tokens of a feature."})
    pad_to_max_length: bool = field(
        default=False,
        metadata={"help": "Pad each feature to max_seq_length, and not each batch to its longest feature."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first records only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first records only."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Predict for the first records only."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Train from the start in an output_dir that is not empty. Its checkpoints are removed when this "
            "run has saved its first one."
        },
    )

    @property
    def hub_settings(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        return {"cache_dir": self.cache_dir, "token": self.token, "trust_remote_code": self.trust_remote_code}

    def load_config(self) -> PreTrainedConfig:
        """Load the model's configuration.

        Raises:
            UsageError: it cannot be loaded.
        """
        name = self.config_name or self.model_name_or_path
        try:
            return AutoConfig.from_pretrained(name, revision=self.model_revision, **self.hub_settings)
        except (OSError, ValueError) as error:
            raise UsageError(f"--model_name_or_path {name}: {error}") from error

    def load_model(
        self, auto_class: "type[_BaseAutoModelClass]", config: PreTrainedConfig, **tokenizer_kwargs: Any
    ) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        """Load the tokenizer and the model.

        Args:
            auto_class: class that loads the model, e.g. ``AutoModelForTokenClassification``.
            config: of ``load_config``, with the labels of the data.
            **tokenizer_kwargs: further arguments of the tokenizer.

        Raises:
            UsageError: they cannot be loaded, or Transformers has no such model of the configuration's type.
        """
        name = self.model_name_or_path
        classes: Any = auto_class._model_mapping
        if type(config) not in classes and "auto_map" not in vars(config):
            raise UsageError(
                f"--model_name_or_path {name}: Transformers has no {auto_class.__name__} of the type "
                f"{config.model_type!r}"
            )
        settings = {"revision": self.model_revision, **self.hub_settings}
        tokenizer_kwargs |= settings | {"use_fast": self.use_fast_tokenizer}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_name or name, **tokenizer_kwargs)
            model = auto_class.from_pretrained(
                name, config=config, ignore_mismatched_sizes=self.ignore_mismatched_sizes, **settings
            )
        except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            raise UsageError(f"--model_name_or_path {name}: {error}") from error
        return tokenizer, model

    def tokenizer_settings(self, tokenizer: PreTrainedTokenizerBase, limit: int | None = None) -> dict[str, Any]:
        """Truncation and padding of the features, as arguments of the tokenizer.

        Args:
            tokenizer: the model's.
            limit: maximum number of tokens that the model itself names, beside the tokenizer's.
        """
        length = self.max_seq_length
        for maximum in (tokenizer_limit(tokenizer), limit):
            if maximum is not None and maximum < length:
                logger.warning(f"--max_seq_length {length} is above the model's maximum: {maximum} is used")
                length = maximum
        padding = "max_length" if self.pad_to_max_length else False
        return {"truncation": True, "max_length": length, "padding": padding}

    @property
    def data_files(self) -> dict[str, str]:
        """The files that are given: split name -> path."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: file for split, file in files.items() if file is not None}

    def load_splits(self, required: bool = True) -> DatasetDict:
        """Load the data: "train", "validation" and "test", as many records of each as the arguments allow.

        Args:
            required: whether data must be named.

        Raises:
            DataError: no data is named, or it cannot be loaded.
        """
        files = self.data_files
        if required and self.dataset_name is None and not files:
            raise DataError("no data: give --dataset_name, or --train_file and --validation_file")
        if self.dataset_name is None:
            loaded = DatasetDict({split: load_file(file, self.cache_dir) for split, file in files.items()})
        else:
            try:
                loaded = load_dataset(
                    self.dataset_name, self.dataset_config_name, cache_dir=self.cache_dir, token=self.token
                )
            except (OSError, ValueError) as error:
                raise DataError(f"{self.dataset_name}: {error}") from error
        limits = {"train": self.max_train_samples, "test": self.max_predict_samples}
        limited = {}
        for split, data in loaded.items():
            kind, _, _ = split.partition("_")  # validation_matched is evaluation data, too
            limit = limits.get(kind, self.max_eval_samples)
            limited[split] = data if limit is None else data.select(range(min(limit, len(data))))
        return DatasetDict(limited)


def load_file(file: str, cache_dir: str | None = None) -> Dataset:
    """Load the records of a file: CSV, JSON, JSON lines, parquet, or text, whose lines are in a column ``text``.

    Args:
        file: its path.
        cache_dir: folder for the converted data; None: the one of the datasets library.

    Raises:
        DataError: it cannot be read, or is of another kind.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in READERS:
        raise DataError(f"{file}: expected a file that ends in {', '.join(READERS)}")
    try:
        return load_dataset(READERS[suffix], data_files=file, split="train", cache_dir=cache_dir)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {error}") from error


def string_columns(data: Dataset) -> list[str]:
    """Names of the columns of texts."""
    return [name for name, feature in data.features.items() if feature.dtype in ("string", "large_string")]
