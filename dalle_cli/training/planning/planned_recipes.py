"""The recipes of a plan: everything in them but the sizes of the models.

What they have in common with the shipped recipes for small pictures is explained there: a KL weight
in force from the first update, a temperature that starts at 2, a floor under ln b.
"""

from dataclasses import dataclass
from typing import Any

from dalle_cli.config import (
    ClipModelTable,
    DVAEModelTable,
    ModelTable,
    Recipe,
    Table,
    TrainedClipTable,
    TrainedTransformerTable,
    TransformerModelTable,
    kind_of,
)
from dalle_cli.loading import N_SPECIAL_TOKENS
from dalle_cli.recipe import parse_recipe, without_absent
from dalle_cli.recipe_text import toml_text
from dalle_cli.training.planning.situation import Situation

MODEL_SIZES: dict[str, type[Table]] = {
    "dvae": DVAEModelTable,
    "transformer": TransformerModelTable,
    "clip": ClipModelTable,
}
# learning rates, each from a width on
DVAE_LR = {16: 5e-3, 48: 4e-3, 64: 2e-3, 128: 1e-3, 192: 4e-4}
TRANSFORMER_LR = {128: 2e-3, 384: 1.2e-3, 512: 1e-3, 768: 6e-4}
CLIP_LR = 1e-3

FEW = 1_000  # samples, below which BPE dropout costs more than it teaches
# held out: this share, but no fewer samples than these, and no more than those
USUAL_SHARE, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.05, 6, 512
REPORTS, SAVES = 60, 8  # in a run
GPU_WORKERS = 6


@dataclass(frozen=True)
class Length:
    """How long a model trains, and on how much at once.

    micro_batch_size  0: the whole share of a process
    """

    steps: int
    batch_size: int
    micro_batch_size: int


def planned_recipe(table: ModelTable, length: Length, situation: Situation) -> Recipe:
    """Return the recipe that trains a model of these sizes for this length."""
    kind, n_samples = kind_of(table), situation.pictures.n_samples
    tables: dict[str, Any] = {
        "kind": kind,
        "model": table.model_dump(include=set(MODEL_SIZES[kind].model_fields)),
        "data": {
            "validation_share": _validation_share(n_samples),
            "shuffle_block": 64 if n_samples < 100_000 else 1024,
            "max_bad_share": 0.05,
        },
        "training": {"steps": length.steps, "global_batch_size": length.batch_size, "seed": 0},
        "runtime": {
            "micro_batch_size": length.micro_batch_size,
            "workers": GPU_WORKERS if situation.machine.is_gpu else 0,
            **intervals(length.steps),
        },
    }

    if isinstance(table, TrainedTransformerTable):
        tables |= _transformer_science(table, bpe_dropout=0.1 if n_samples >= FEW else 0.0)
    elif isinstance(table, TrainedClipTable):
        tables |= _clip_science(table)
    elif isinstance(table, DVAEModelTable):
        tables |= _dvae_science(table)
    return parse_recipe(tables, source="the plan")


def _validation_share(n_samples: int) -> float:
    """Return the share to hold out: enough to measure on, and little more."""
    share = max(min(USUAL_SHARE, MOST_HELD_OUT / n_samples), FEWEST_HELD_OUT / n_samples)
    return round(min(share, 0.5), 6)


def intervals(steps: int) -> dict[str, int]:
    """Return the keys of `[runtime]` that say how often a run of this length reports and saves."""
    often, seldom = max(steps // REPORTS, 1), max(steps // SAVES, 1)
    return {
        "report_every": often,
        "validate_every": seldom,
        "preview_every": seldom,
        "save_every": seldom,
    }


def planned_text(recipe: Recipe, comments: list[str]) -> str:
    """Format a recipe as TOML that people can copy and change, under comments."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comments)
    return head + toml_text(without_absent(recipe.model_dump(exclude_unset=True)))


def _dvae_science(table: DVAEModelTable) -> dict[str, Any]:
    return {
        "loss": {
            "kl_weight": {"start": 1.0, "end": 3.0, "share": 1.0},
            "temperature": {"start": 2.0, "end": 0.0625, "share": 0.8},
            "dequantization": 0.02,
            "min_log_scale": -1.0,
        },
        "optimizer": {
            "lr": _cosine(_lr_of(DVAE_LR, table.n_hidden)),
            "warmup_share": 0.02,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "weight_decay": 1e-4,
            "clip_norm": 0.0,
            "clip_second_moment": 0.0,
        },
        "ema": {"decay": 0.999, "every": 1},
    }


def _transformer_science(table: TrainedTransformerTable, *, bpe_dropout: float) -> dict[str, Any]:
    return {
        "tokenizer": {"vocab_size": table.text_vocab_size, "dropout": bpe_dropout},
        "loss": {"text_weight": 0.125, "caption_dropout": 0.1},
        "optimizer": {
            "lr": _cosine(_lr_of(TRANSFORMER_LR, table.d_model)),
            "warmup_share": 0.02,
            "betas": [0.9, 0.96],
            "eps": 1e-8,
            "weight_decay": 0.045,
            "clip_norm": 4.0,
            "clip_second_moment": 5.0,
        },
        "ema": {"decay": 0.999, "every": 1},
    }


def _clip_science(table: TrainedClipTable) -> dict[str, Any]:
    return {
        "tokenizer": {"vocab_size": table.text_vocab_size - N_SPECIAL_TOKENS, "dropout": 0.0},
        "optimizer": {
            "lr": _cosine(CLIP_LR),
            "warmup_share": 0.08,
            "betas": [0.9, 0.98],
            "eps": 1e-6,
            "weight_decay": 0.2,
            "clip_norm": 1.0,
            "clip_second_moment": 0.0,
        },
        "ema": {"decay": 0.99, "every": 1},
    }


def _cosine(start: float) -> dict[str, float]:
    return {"start": start, "end": 1e-5, "share": 1.0}


def _lr_of(rates: dict[int, float], width: int) -> float:
    """Return the learning rate of a width, by the widths from which each holds."""
    return rates[max(least for least in rates if width >= least)]
