"""What does SparseML 1.8.0 itself do by a recipe?

Runs inside ``.venv-sparseml`` (``make parity``), an old Python with SparseML's old pins, and knows nothing of this
project: one JSON request a line on standard input, one JSON answer a line on standard output.

    recipe, steps, steps_per_epoch        what to run, in optimizer steps
    optimizer                             {type, lr, momentum, weight_decay}
    weights                               file of tests/golden to start from
    teacher                               whether the golden teacher is asked
    gradients                             null: those of the loss; a number: drawn from this seed, whatever the loss
    rewrite                               whether BERT's attention is SparseML's own, for int8
    save                                  null, or a directory into which the model is saved as SparseML's trainer does
"""

import hashlib
import itertools
import json
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("NM_DISABLE_ANALYTICS", "True")  # SparseML calls home
warnings.filterwarnings("ignore")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from sparseml.pytorch.optim import ScheduledModifierManager, ScheduledOptimizer  # noqa: E402
from torch.quantization import FakeQuantize  # noqa: E402
from transformers import BertConfig, BertForQuestionAnswering  # noqa: E402

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def load_model(weights):
    model = BertForQuestionAnswering(BertConfig(**json.loads((GOLDEN / "model_config.json").read_text())))
    state = load_file(str(GOLDEN / f"{weights}.safetensors"))
    state.pop("bert.embeddings.position_ids", None)
    model.load_state_dict(state)
    return model.train()


def drawn_gradient(seed, step, name, shape):
    """A gradient that is the same in every version of every library; see parity_run.py."""
    number = int.from_bytes(hashlib.sha256(f"{seed} {step} {name}".encode()).digest()[:4], "little")
    return torch.from_numpy(np.random.RandomState(number).standard_normal(tuple(shape)).astype("float32"))


def hash_of(masks):
    """The ``mask_sha`` of tests/golden/README.md."""
    parts = [hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] for mask in masks]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def masks_in_force(manager):
    """The masks (bool, numpy) of all pruning modifiers in turn, False where pruned."""
    masks = []
    for modifier in manager.pruning_modifiers:
        found = getattr(modifier, "module_masks", None)
        if found is not None:
            masks += [mask.bool().numpy() if found.enabled else np.ones(mask.shape, bool) for mask in found.param_masks]
    return masks


def quantizers_of(model):
    snapshot = []
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantize):
            observer = module.activation_post_process
            snapshot.append(
                {
                    "name": name,
                    "qmin": module.quant_min,
                    "qmax": module.quant_max,
                    "qscheme": str(module.qscheme),
                    "obs_enabled": int(module.observer_enabled[0]),
                    "scale": module.scale.tolist(),
                    "zero_point": module.zero_point.tolist(),
                    "min_val": observer.min_val.tolist(),
                    "max_val": observer.max_val.tolist(),
                }
            )
    return snapshot


def run(request):
    torch.manual_seed(0)
    batches = load_file(str(GOLDEN / "batches.safetensors"))
    model = load_model(request["weights"])
    if request["rewrite"]:
        import sparseml.transformers  # noqa: F401
        from sparseml.modifiers.quantization_legacy.modification import modify_model

        model = modify_model(model)
    teacher = load_model("model_teacher").eval() if request["teacher"] else "disable"
    settings = request["optimizer"]
    if settings["type"] == "adamw":
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), settings["lr"], momentum=settings["momentum"], weight_decay=settings["weight_decay"]
        )

    def batch(number):
        return {name: tensor[number % 10] for name, tensor in batches.items()}

    samples = itertools.count()

    def data_loader(kwargs=None):
        for number in samples:
            yield [], batch(number), None

    manager = ScheduledModifierManager.from_yaml(request["recipe"])
    scheduled = ScheduledOptimizer(
        optimizer,
        model,
        manager,
        steps_per_epoch=request["steps_per_epoch"],
        initialize_kwargs={
            "distillation_teacher": teacher,
            "grad_sampler": {
                "data_loader_builder": data_loader,
                "loss_function": lambda outputs, targets: outputs.loss,
            },
        },
    )
    steps = []
    for step in range(request["steps"]):
        inputs = batch(step)
        scheduled.zero_grad()
        outputs = model(**inputs)
        loss = scheduled.manager.loss_update(
            outputs.loss,
            model,
            optimizer,
            step / request["steps_per_epoch"],
            request["steps_per_epoch"],
            student_outputs=outputs,
            student_inputs=inputs,
        )
        record = {"step": step, "task_loss": outputs.loss.item(), "total_loss": float(loss)}
        snapshot = quantizers_of(model)
        if request["gradients"] is None:
            loss.backward()
        else:
            watched = model.bert.embeddings.LayerNorm.weight
            if watched.requires_grad:
                record["gradient"] = torch.autograd.grad(loss, watched)[0].tolist()
            sum(
                (parameter * drawn_gradient(request["gradients"], step, name, parameter.shape)).sum()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            ).backward()
        scheduled.step()
        record["lr"] = [group["lr"] for group in optimizer.param_groups]
        record["weight_decay"] = [group["weight_decay"] for group in optimizer.param_groups]
        record["trainable"] = sum(parameter.requires_grad for parameter in model.parameters())
        masks = masks_in_force(manager)
        record["masks"] = hash_of(masks)
        record["zeros"] = sum(int((parameter == 0).sum()) for parameter in model.parameters() if parameter.dim() == 2)
        if snapshot:
            record["quantizers"] = snapshot
        steps.append(record)
    manager.finalize(model)
    if request["save"]:
        model.save_pretrained(request["save"], safe_serialization=False)
        manager.save(os.path.join(request["save"], "recipe.yaml"))
        model.eval().apply(torch.quantization.disable_observer)  # those of qa_outputs are on to the end
        with torch.no_grad():
            outputs = model(**batch(0))
        logits = {name: outputs[name].tolist() for name in ("start_logits", "end_logits")}
        Path(request["save"], "logits.json").write_text(json.dumps(logits))
    return {"max_epochs": manager.max_epochs, "steps": steps}


def main():
    logging.disable(logging.WARNING)
    answers, sys.stdout = sys.stdout, sys.stderr  # what SparseML prints is no answer
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except Exception as error:  # whatever SparseML raises is what it does
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
