"""Arguments of the question-answering script, and its command-line parser.

Imports only torch and Transformers' arguments, so that a wrong flag or recipe is refused before slow imports.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType

from sparsification.arguments import SparsificationArguments
from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.command_line import read_arguments

EXTENSIONS = ("csv", "json", "jsonl", "parquet")
TEXT_EXTENSIONS = ("txt", *EXTENSIONS)


@dataclass
class ModelArguments:
    """The model, its configuration and its tokenizer."""

    model_name_or_path: str = field(metadata={"help": "Folder of a saved model, or its name on the hub."})
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the configuration, if it is not the model's."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the tokenizer, if it is not the model's."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for downloads and converted data."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the hub."})
    token: str | None = field(
        default=None, metadata={"help": "Access token of the hub. Default: the one that `hf auth login` has stored."}
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code from the model's repository. Only for code that you have read."},
    )


@dataclass
class DataTrainingArguments:
    """The data, and how features are made from questions and answers from logits."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Folder of a data set, or its name on the hub (squad, squad_v2, ...)."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_file: str | None = field(
        default=None, metadata={"help": "Questions to train on: SQuAD-like JSON, JSON lines, CSV or parquet."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Questions to evaluate on, in the same formats."}
    )
    test_file: str | None = field(
        default=None,
        metadata={"help": "Questions to answer with --do_predict, in the same formats; answers may be missing."},
    )
    distill_file: str | None = field(
        default=None,
        metadata={
            "help": "Text without labels to distill on: .txt (a paragraph on each line, or between blank lines), or "
            "records with a context in the formats above. Cloze questions are made from paragraphs without questions."
        },
    )
    distill_questions_per_paragraph: int = field(
        default=2, metadata={"help": "Maximum number of cloze questions made from a paragraph of --distill_file."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Make the features again, even if they are cached."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "Number of processes that make the features."}
    )
    max_seq_length: int = field(
        default=384, metadata={"help": "Maximum number of tokens of a feature, question and special tokens included."}
    )
    pad_to_max_length: bool = field(
        default=True,
        metadata={
            "help": "Pad each feature to max_seq_length. False pads each batch to its longest feature, which is faster."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Train on the first N questions (and features) only, e.g. for a quick test; those of "
            "--distill_file come in addition."
        },
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first N questions only."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Answer the first N test questions only."})
    version_2_with_negative: bool = field(
        default=False, metadata={"help": "Some questions have no answer, as in SQuAD 2.0."}
    )
    null_score_diff_threshold: float = field(
        default=0.0,
        metadata={
            "help": "No answer is chosen if its score exceeds the best answer's by more than this. Only with "
            "--version_2_with_negative."
        },
    )
    doc_stride: int = field(
        default=128, metadata={"help": "Number of tokens that two neighbouring windows of a long context share."}
    )
    n_best_size: int = field(default=20, metadata={"help": "Number of candidate answers to keep for each question."})
    max_answer_length: int = field(
        default=30,
        metadata={"help": "Maximum number of tokens of an answer: start and end are predicted separately."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Train from the start in an output_dir that is not empty. Its checkpoints are removed when this "
            "run has saved its first one."
        },
    )

    def __post_init__(self) -> None:
        """Check these arguments by themselves."""
        files = {"train_file": self.train_file, "validation_file": self.validation_file, "test_file": self.test_file}
        files |= {"distill_file": self.distill_file}
        if self.dataset_name is None and not any(files.values()):
            raise ValueError("no data: give --dataset_name, or --train_file, --validation_file or --test_file")
        for name, path in files.items():
            known = TEXT_EXTENSIONS if name == "distill_file" else EXTENSIONS
            if path is not None and Path(path).suffix[1:].lower() not in known:
                raise ValueError(f"--{name} {path}: expected a file that ends in {', '.join('.' + e for e in known)}")
        for name in ("max_seq_length", "n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: expected 1 or more")

    @property
    def data_files(self) -> dict[str, str]:
        """The files that are given: split name -> path."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in files.items() if path is not None}


@dataclass(frozen=True)
class Flags:
    """All arguments of a run, and the recipe that they name."""

    model: ModelArguments
    data: DataTrainingArguments
    sparse: SparsificationArguments
    training: TrainingArguments
    manager: ScheduledModifierManager

    def value(self, flag: str) -> Any:
        """Value of a flag of any of the arguments."""
        return next(vars(part)[flag] for part in self._parts() if flag in vars(part))

    def set(self, flag: str, value: Any) -> None:
        """Change a flag."""
        setattr(next(part for part in self._parts() if flag in vars(part)), flag, value)

    def _parts(self) -> tuple[Any, ...]:
        return self.training, self.data, self.model, self.sparse

    @property
    def compares_checkpoints(self) -> bool:
        """Whether a metric decides which checkpoint is saved or loaded, or the learning rate."""
        return (
            self.training.load_best_model_at_end
            or self.training.save_strategy == SaveStrategy.BEST
            or self.training.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
        )


def parse_arguments(argv: list[str]) -> Flags:
    """Read the command line, the JSON or YAML files of arguments that it names, and its recipe.

    Raises:
        UsageError: an unknown flag or key, or a value that is refused.
        SparsificationError: a flag of 2021 without an equivalent today, a wrong recipe, or no compiler for the export.
    """
    kinds = (ModelArguments, DataTrainingArguments, SparsificationArguments, TrainingArguments)
    (model, data, sparse, training), manager = read_arguments(kinds, argv)
    return Flags(model, data, sparse, training, manager)
