"""Each recipe of the folder loads, and does what its name and its text say."""

import copy
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedModel,
    RobertaConfig,
)

from helpers import ROOT
from helpers.trainers import SparseTrainer, arguments, make_data
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import (
    EpochRangeModifier,
    LearningRateBase,
    OBSPruningModifier,
    QuantizationModifier,
    TrainingStep,
)
from sparsification.quantization.modules import fake_quant_enabled, fake_quantized_modules, quantizers

EVERY = sorted(path for path in (ROOT / "recipes").glob("*.md") if path.name != "README.md")
ONE_SHOT = [path for path in EVERY if "--one_shot" in path.read_text().split("```")[1]]  # in its own command
RECIPES = [path for path in EVERY if path not in ONE_SHOT]
TUTORIAL = {
    "bert-base-12layers",
    *(f"bert-base-12layers_{kind}" for kind in ("prune80", "prune90", "prune95", "prune_quant70", "prune_quant90")),
    *(f"bert-base-6layers_{kind}" for kind in ("prune70", "prune80", "prune90", "prune95")),
    *(f"bert-base-6layers_{kind}" for kind in ("prune_quant70", "prune_quant90")),
    *(f"bert-base-3layers_{kind}" for kind in ("prune70", "prune80", "prune90", "prune95")),
}
# Layers that stay, by how many there are and how many of them.
KEPT = {12: {12: range(12), 6: (0, 2, 4, 6, 8, 11), 3: (0, 6, 11)}, 6: {6: range(6), 3: (2, 3, 5)}}
STEPS_PER_EPOCH = 8  # of a run with 32 features in batches of 4


class Promise:
    """What the name of a recipe promises."""

    def __init__(self, path: Path):
        self.minilm = path.stem.startswith("minilm")
        size = re.search(r"(\d+)layers", path.stem)
        self.loaded = 6 if self.minilm else 12
        self.layers = 6 if path.stem == "drop_layers" else int(size[1]) if size else self.loaded
        self.kept = KEPT[self.loaded][self.layers]
        self.quantized = "quant" in path.stem
        percent = re.search(r"(\d+)(_block4)?$", path.stem)
        self.thinned = "_ffn" in path.stem  # pruned neurons are removed
        self.sparsity = int(percent[1]) / 100 if percent and not self.thinned else 0.0
        self.in_blocks = self.quantized and self.sparsity > 0 or "_block4" in path.stem
        self.by_curvature = "_obert" in path.stem
        self.in_one_ranking = "_gmp" in path.stem or self.by_curvature
        self.distills = path.stem not in ("bert-base-12layers", "minilm-6layers")


def thin_bert(layers: int) -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    return BertForQuestionAnswering(config)


def each(paths: list[Path] = RECIPES):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def shape(path: Path) -> list[tuple[str, dict]]:
    """Modifiers of a recipe with all of their keys that are no numbers."""
    return [
        (
            type(modifier).__name__,
            {key: value for key, value in dataclasses.asdict(modifier).items() if not is_number(value)},
        )
        for modifier in ScheduledModifierManager.from_yaml(path).modifiers
    ]


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Recipes that differ in numbers alone. The first of each shape is trained; the plans of all are checked.
SHAPES: dict[str, list[Path]] = {}
for recipe in RECIPES:
    SHAPES.setdefault(repr(shape(recipe)), []).append(recipe)


def test_the_tutorials_recipes_are_there():
    assert {path.stem for path in RECIPES} >= TUTORIAL
    assert len(TUTORIAL) == 16


def test_every_recipe_plans_what_its_name_promises(subtests):
    for path in RECIPES:
        with subtests.test(path.name):
            promise = Promise(path)
            manager = ScheduledModifierManager.from_yaml(path)
            pruning = [modifier for modifier in manager.modifiers if "final_sparsity" in vars(modifier)]
            planned = {modifier.final_sparsity for modifier in pruning}
            assert planned == ({promise.sparsity} if promise.sparsity else {0.5} if promise.thinned else set())
            assert all(0.0 <= modifier.init_sparsity < modifier.final_sparsity for modifier in pruning)
            assert all(modifier.end_epoch <= manager.max_epochs for modifier in pruning)
            assert (manager.distills, manager.quantizes) == (promise.distills, promise.quantized)


@each([paths[0] for paths in SHAPES.values()])
def test_recipe_keeps_its_promise_when_it_is_trained(path, tmp_path):
    """A run of the whole recipe, as short as its phases allow, on a narrow BERT."""
    promise = Promise(path)
    model = thin_bert(promise.loaded)
    kept = [model.bert.encoder.layer[index] for index in promise.kept]
    full = ScheduledModifierManager.from_yaml(path)
    short = {"num_epochs": min(full.max_epochs, 4.0)} | ({"num_grads": 4} if promise.by_curvature else {})
    manager = ScheduledModifierManager.from_yaml(path, short)
    assert any(isinstance(modifier, OBSPruningModifier) for modifier in manager.modifiers) == promise.by_curvature
    teacher = thin_bert(promise.loaded) if manager.distills else None
    assert manager.distills == promise.distills
    trainer = SparseTrainer(
        model=model,
        args=arguments(tmp_path, learning_rate=1e-4),
        train_dataset=make_data(),
        manager=manager,
        teacher=teacher,
    )
    trainer.train()
    assert trainer.state.epoch == pytest.approx(manager.max_epochs, abs=0.1)
    assert list(model.bert.encoder.layer) == kept
    assert model.config.num_hidden_layers == len(kept) == promise.layers
    assert model.config.intermediate_size == (32 if promise.thinned else 64)
    weights = {name: weight for name, weight in model.named_parameters() if "encoder" in name and weight.dim() == 2}
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    group = 4 if promise.in_blocks else 1  # neighbours in a row that are pruned together
    if promise.in_one_ranking:
        total = sum(weight.numel() for weight in weights.values())
        assert sum(zeros.values()) == pytest.approx(promise.sparsity * total, abs=group)
        for weight in weights.values():
            assert set((weight.view(-1, group) == 0).sum(dim=1).tolist()) <= {0, group}
    else:
        for name, weight in weights.items():
            assert zeros[name] == group * round(weight.numel() / group * promise.sparsity), name
    for name, weight in model.named_parameters():
        if name not in weights and weight.dim() == 2 and "word" not in name:
            assert int((weight == 0).sum()) == 0, name
    assert fake_quant_enabled(model) == promise.quantized
    if promise.quantized:
        linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        assert linear <= {name for name, _ in fake_quantized_modules(model)}
        assert all(quantizer.observed and not quantizer.observer_enabled for quantizer in quantizers(model).values())
    last_rate = trainer.optimizer.param_groups[0]["lr"]
    curves = [modifier for modifier in manager.modifiers if isinstance(modifier, LearningRateBase)]
    last = max((curve for curve in curves), key=lambda curve: curve.end_epoch, default=None)
    if last is None:
        assert last_rate == pytest.approx(0.0, abs=1e-9)  # the command line's, linear to 0
    else:
        assert last_rate == (last.init_lr if last.lr_func == "cyclic_linear" else pytest.approx(last.final_lr))


def apply_one_shot(path: Path, folder: Path) -> BertForQuestionAnswering:
    manager = ScheduledModifierManager.from_yaml(path, {"num_samples": 8})
    trainer = SparseTrainer(model=thin_bert(3), args=arguments(folder), train_dataset=make_data(), manager=manager)
    trainer.apply_one_shot()
    return trainer.model


def test_one_shot_recipe_takes_half_of_the_neurons(tmp_path):
    model = apply_one_shot(ROOT / "recipes" / "one-shot_neurons50.md", tmp_path)
    assert model.config.intermediate_size == 32
    assert not any((layer.output.dense.weight == 0).any() for layer in model.bert.encoder.layer)


@each([path for path in ONE_SHOT if "_neurons" not in path.stem])
def test_recipe_keeps_its_promise_in_one_shot(path, tmp_path):
    model = apply_one_shot(path, tmp_path)
    promised = float(re.search(r"reconstruct(\d+)", path.stem)[1]) / 100
    group = 4 if "_block4" in path.stem else 1
    weights = {n: w.view(-1, group) for n, w in model.named_parameters() if w.dim() == 2 and "word" not in n}
    zeros = {name: (weight == 0).sum(dim=1) for name, weight in weights.items()}
    inside = torch.cat([counts for name, counts in zeros.items() if ".encoder." in name])
    assert set(inside.tolist()) == {0, group}
    assert float((inside == group).float().mean()) == pytest.approx(promised, abs=2e-3)
    assert not any(counts.any() for name, counts in zeros.items() if ".encoder." not in name)
    assert fake_quant_enabled(model) == ("_int8" in path.stem)
    assert all(quantizer.observed for quantizer in quantizers(model).values())


_SIZES = {"vocab_size": 50, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 16}
_WIDTHS = {"hidden_size": 32, "intermediate_size": 64}
FAMILIES = {
    "roberta": RobertaConfig(**_SIZES, **_WIDTHS),
    "distilbert": DistilBertConfig(
        vocab_size=50, dim=32, hidden_dim=64, n_layers=3, n_heads=2, max_position_embeddings=16
    ),
    "electra": ElectraConfig(**_SIZES, **_WIDTHS, embedding_size=16),
    "mpnet": MPNetConfig(**_SIZES, **_WIDTHS),
    "deberta": DebertaV2Config(**_SIZES, **_WIDTHS, relative_attention=True, position_buckets=8),
    "modernbert": ModernBertConfig(**_SIZES, **_WIDTHS, pad_token_id=0, local_attention=8),
}
LAYERS = {"distilbert": "distilbert.transformer.layer", "modernbert": "model.layers"}  # others: FAMILY.encoder.layer
GENERIC = ("prune80", "prune_quant80", "quantize", "drop_layers")


def model_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForQuestionAnswering.from_config(copy.deepcopy(FAMILIES[family]))


@pytest.mark.parametrize("name", GENERIC)
@pytest.mark.parametrize("family", FAMILIES)
def test_generic_recipe_does_the_same_in_each_family_of_encoders(name, family, tmp_path):
    args = {"num_epochs": 1.0} | ({"dropped": ["__ENCODER__.1"]} if name == "drop_layers" else {})
    manager = ScheduledModifierManager.from_yaml(ROOT / "recipes" / f"{name}.md", args)
    model = model_of(family)
    path = LAYERS.get(family, f"{family}.encoder.layer")
    layers = list(model.get_submodule(path))
    trainer = SparseTrainer(
        model=model,
        args=arguments(tmp_path, learning_rate=1e-4),
        train_dataset=make_data(),
        manager=manager,
        teacher=model_of(family),
    )
    trainer.train()
    kept = [layers[0], layers[2]] if name == "drop_layers" else layers
    assert list(model.get_submodule(path)) == kept
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert len([module for module in linear if module.startswith(f"{path}.")]) == len(kept) * (
        4 if family == "modernbert" else 6
    )
    for module in linear:
        weight = model.get_submodule(module).weight
        pruned = 0.8 if name.startswith("prune") and module.startswith(f"{path}.") else 0.0
        assert float((weight == 0).float().mean()) == pytest.approx(pruned, abs=4 / weight.numel()), module
    quantized = {name for name, _ in fake_quantized_modules(model)} if fake_quant_enabled(model) else set()
    assert linear <= quantized if "quant" in name else not quantized
    trainer.save_model()
    saved, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert saved.config.num_hidden_layers == len(kept)


@each([path for path in RECIPES if "prune_quant" in path.stem and path.stem in TUTORIAL])
def test_quantization_has_the_tutorials_times(path):
    manager = ScheduledModifierManager.from_yaml(path)
    modifier = next(modifier for modifier in manager.modifiers if isinstance(modifier, QuantizationModifier))
    assert (modifier.start_epoch, modifier.final_epoch, manager.max_epochs) == (30, 35, 40)
    rates = [manager.learning_rate(TrainingStep(epoch, 1), 0, 1.0) for epoch in (0, 15, 30, 35, 40)]
    assert rates == pytest.approx([5e-5, 2.5e-5, 5e-5, 2.5e-5, 0.0])


def test_one_variable_scales_the_whole_recipe(subtests):
    for path in RECIPES:
        with subtests.test(path.name):
            full = ScheduledModifierManager.from_yaml(path)
            scaled = ScheduledModifierManager.from_yaml(path, {"num_epochs": full.max_epochs / 5})
            for modifier, shorter in zip(full.modifiers, scaled.modifiers, strict=True):
                for long, short in zip(modifier.active_range, shorter.active_range, strict=True):
                    assert short == pytest.approx(long / 5)
                assert shorter.final_epoch == pytest.approx(modifier.final_epoch / 5)
                assert getattr(shorter, "cycle_epochs", 1.0) in (
                    1.0,
                    pytest.approx(getattr(modifier, "cycle_epochs", 1.0) / 5),
                )


OLD = {
    name.removeprefix("old/").removesuffix(".md"): case["modifiers"]
    for name, case in json.loads((ROOT / "tests" / "golden" / "recipes" / "recipes.json").read_text()).items()
    if name.startswith("old/")
}


@pytest.mark.parametrize("name", sorted(OLD))
def test_recipe_has_the_hyperparameters_of_sparsemls_own(name):
    ours = ScheduledModifierManager.from_yaml(ROOT / "recipes" / f"{name}.md").modifiers
    theirs = {(values["type"], values["start_epoch"]): values for values in OLD[name]}
    compared = 0
    for modifier in ours:
        expected = theirs.pop((type(modifier).__name__, modifier.start_epoch), None)
        if expected is None and isinstance(modifier, EpochRangeModifier):
            continue
        assert expected is not None, modifier
        for key in expected.keys() - {
            "type",
            "params",
            "quantize_linear_activations",
            "quantize_embedding_activations",
        }:
            mine = getattr(modifier, key)
            if key in ("submodules", "layers"):
                assert sorted(mine) == sorted(expected[key])
            else:
                assert mine == pytest.approx(expected[key]) if isinstance(mine, float) else mine == expected[key], key
            compared += 1
    assert not theirs
    assert compared > 15


def test_recipes_that_are_for_no_particular_bert_name_parameters_by_token(subtests):
    for path in RECIPES:
        with subtests.test(path.name):
            patterns = {
                name
                for modifier in ScheduledModifierManager.from_yaml(path).modifiers
                for name in modifier.parameter_patterns
            }
            if path.stem.startswith("bert-base-"):
                assert all(
                    name.startswith(r"re:bert\.encoder\.layer\.\d+\.") for name in patterns - {"__ALL_PRUNABLE__"}
                )
            else:
                assert patterns <= {"__ENCODER__", "__ALL_PRUNABLE__"}
            generic = "any encoder" in path.read_text()
            assert generic == (path.stem in GENERIC)
            assert (
                f"[{path.stem}]({path.name})" in (ROOT / "recipes" / "README.md").read_text().split("| recipe |")[0]
            ) == generic


@each(EVERY)
def test_recipe_says_how_to_run_it_and_what_it_reaches(path):
    text = path.read_text()
    assert f"# {path.stem}\n" in text
    given = "--output_dir MODELS_DIR" if path.stem == "bert-base-12layers" else f"--recipe recipes/{path.name}"
    assert given in text  # the tutorial trains its teacher without a recipe
    assert "\n- Published for SQuAD v1.1, EM / F1: " in text
    assert "\n- Measured by this project: " in text
    assert "arXiv:" in text
    assert len(max(text.splitlines(), key=len)) <= 130
