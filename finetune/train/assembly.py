"""Puts a training together: the base in memory, its adapters, the trainer's arguments, the watcher."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer, PrinterCallback
from trl import SFTConfig

from finetune.data import Dataset
from finetune.model import add_adapter, bytes_by_dtype, family_of, keep_apart, kernels, load_base, recompute, refused
from finetune.plan import Plan
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.stopping import Stop
from finetune.train.batches import FILLER, collate
from finetune.train.processes import Processes
from finetune.train.trainer import ProvingTrainer
from finetune.train.watching import Watcher

OPTIMIZERS = {"adamw": "adamw_torch", "adamw_8bit": "adamw_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
"""Our word -> transformers'."""


def assemble(
    run: Run,
    recipe: Recipe,
    plan: Plan,
    base: Path,
    dataset: Dataset,
    stop: Stop,
    report: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    cache: Path | None,
    processes: Processes,
) -> tuple[ProvingTrainer, Watcher]:
    """Loads the base, gives it its adapters, and hands both to a trainer that is watched."""
    _warn(plan, say)
    exchange, progress = processes.exchange, partial(_loading, report)
    model = load_base(base, plan, cache=cache, exchange=exchange, progress=progress, say=say)
    if plan.method != "full":
        model = add_adapter(model, plan, dropout=recipe.lora.dropout, seed=recipe.train.seed)
    else:
        model.requires_grad_(True)
    recompute(model, plan.choices)
    watcher = Watcher(run, plan, dataset.held_out, stop, report)
    with refused(base, "tokenizer_config.json"):
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    make: Callable[..., ProvingTrainer] = ProvingTrainer
    rows = list(range(len(dataset.train)))
    if processes.size > 1:
        from finetune.train.distributed import DistributedTrainer

        make = partial(DistributedTrainer, processes, plan.zero)
        rows.append(FILLER)
    trainer = make(
        run,
        recipe,
        plan,
        dataset.train,
        model=model,
        args=_arguments(run, recipe, plan),
        data_collator=partial(
            collate, examples=dataset.train, pad=tokenizer.pad_token_id, pack=_pack(recipe, plan, say)
        ),
        train_dataset=datasets.Dataset.from_dict({"index": rows}),  # the collator reads the examples, when it is time
        processing_class=tokenizer,
        callbacks=[watcher],
    )
    trainer.remove_callback(PrinterCallback)
    watcher.trainer = trainer
    say(_told(trainer.model, plan))
    return trainer, watcher


def _pack(recipe: Recipe, plan: Plan, say: Callable[[str], None]) -> int:
    """Gives the tokens of a pack, once its examples are kept apart; 0 where nothing is packed."""
    if not recipe.data.packing:
        return 0
    for part, keeper in keep_apart(plan.device).items():
        say(f"packing: in {part} of the Gated DeltaNet layers, examples are kept apart by {keeper}")
    return recipe.data.max_length


def _warn(plan: Plan, say: Callable[[str], None]) -> None:
    for name, kernel in kernels(plan.device).items():
        if "slow" in kernel:
            cure = "pip install 'finetune-proven[kernels]'" if plan.device == "cuda" else "there is no GPU here"
            say(f"WARNING: {name} of the Gated DeltaNet layers runs on the {kernel}: {cure}")


def _told(model: Any, plan: Plan) -> str:
    """Says what was loaded, and how much of it is trained."""
    held = ", ".join(f"{_size(size)} of {dtype}" for dtype, size in bytes_by_dtype(model).items())
    trained = f"{plan.trainable_parameters:,} parameters are trained"
    if plan.expert_rank:
        named = model.named_parameters()
        routed = sum(p.numel() for name, p in named if p.requires_grad and family_of(name) == "experts")
        trained += f", {routed / plan.trainable_parameters:.0%} of them for routed experts"
    return f"loaded {plan.base}: {held}; {trained}"


def _loading(report: Callable[[dict[str, Any]], None], done: int, whole: int) -> None:
    report({"loaded_bytes": done, "whole_bytes": whole})


def _arguments(run: Run, recipe: Recipe, plan: Plan) -> Any:
    """Says the plan in trl's words. What is decided here is decided nowhere else."""
    cuda = plan.device == "cuda"
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(run.path / "tensorboard"))
    return SFTConfig(
        output_dir=str(run.checkpoints),
        max_steps=plan.steps,
        # a packed step comes whole, and is cut into as many packs as its examples fill
        per_device_train_batch_size=recipe.train.batch_size if recipe.data.packing else plan.choices.micro_batch,
        gradient_accumulation_steps=1 if recipe.data.packing else plan.choices.accumulation,
        gradient_checkpointing=False,  # finetune.model.recompute does it, where and as the plan says
        learning_rate=recipe.train.learning_rate,
        weight_decay=recipe.train.weight_decay,
        max_grad_norm=recipe.train.max_grad_norm,
        # the auxiliary loss evens out what routers choose; frozen ones would only hand it down to the layers before
        router_aux_loss_coef=recipe.train.router_aux_loss_coef if plan.method == "full" or plan.num_routers else 0.0,
        optim=OPTIMIZERS[plan.choices.optimizer],
        seed=recipe.train.seed,
        bf16=cuda,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=list(recipe.train.report_to),
        run_name=run.name,
        disable_tqdm=True,
        remove_unused_columns=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        **_engine(recipe, plan),
    )


def _engine(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """Says that DeepSpeed runs the steps where several processes train."""
    if plan.processes == 1:
        return {}
    from finetune.train.distributed import engine_settings

    settings = engine_settings(
        micro_batch=plan.choices.micro_batch,
        accumulation=plan.choices.accumulation,
        size=plan.processes,
        zero=plan.zero,
        max_grad_norm=recipe.train.max_grad_norm,
    )
    return {"deepspeed": settings}


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**29 else f"{size_bytes / 2**20:.1f} MiB"
