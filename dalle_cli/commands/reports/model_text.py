"""The size and cost of a model in plain words, for `dalle info`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dalle_cli.commands.reports.group_cost import group_rows
from dalle_cli.console import count_text, size_text

Row = tuple[str, str]  # a label, or "" below another row, and what it says
LABEL_WIDTH = 18  # at least
NAMES = {
    "dvae": "a discrete VAE",
    "dvae-encoder": "the encoder of a discrete VAE",
    "transformer": "a transformer",
    "clip": "a CLIP",
    "prior": "a diffusion prior",
    "prior-autoregressive": "an autoregressive prior",
    "decoder": "a decoder of image embeddings",
    "embedding-codec": "a codec of image embeddings",
}
GIB = 2**30
SMALL = 1.0  # GiB of training state, below which no run needs to divide it among GPUs


def aligned_rows(rows: Iterable[Row]) -> str:
    """Lay out rows in two columns."""
    rows = list(rows)
    width = max([LABEL_WIDTH, *(len(label) + 2 for label, _ in rows)])
    return "\n".join(f"{label:<{width}}{text}" for label, text in rows)


def model_text(facts: Mapping[str, Any]) -> str:
    """Return the facts of a recipe's model as rows."""
    rows = [*model_size_rows(facts), ("weights", size_text(facts["weights_mib"] * 2**20))]
    if facts["kind"] == "transformer":
        rows += _cost_rows(facts)
    elif "gflop_forward" in facts:
        rows += _unclip_cost_rows(facts)
    rows += [("mask", path) for path in facts.get("masks", {}).values()]
    return aligned_rows(rows)


def model_size_rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    """Yield rows that say what a model is: parameters by part, sizes, and tokens."""
    parts = dict(facts["parameters"])
    total = parts.pop("all")
    parts.pop("of these in matrices", None)
    yield "model", f"{NAMES[facts['kind']]} of {count_text(total)} parameters"
    yield "", ", ".join(f"{part} {count_text(n)}" for part, n in parts.items())
    if "shape" in facts:
        yield "", facts["shape"]
    if "layers" in facts:
        yield "attention", ", ".join(f"{n} {kind}" for kind, n in facts["layers"].items())
    if "image_size" in facts:
        yield "pictures", f"{facts['image_size']} pixels on a side"
    yield "tokens", facts["tokens"]


def _cost_rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    flops, cache = facts["tflop_per_image"], facts["cache_mib"]
    yield "TFLOP per picture", f"{flops['forward']:g} forward, {flops['training']:g} in training"
    sizes = (size_text(cache[key] * 2**20) for key in ("of each caption", "of each sample"))
    yield "KV cache", "{} a caption, {} a sample".format(*sizes)
    yield from _checkpoint_rows(facts)

    activations = facts["activations_gib_per_sample"]
    for precision in ("fp32", "bf16"):
        kept, again = (size_text(activations[precision + x] * GIB) for x in ("", ", recomputed"))
        label = "activations" if precision == "fp32" else ""
        yield label, f"{kept} a sample in {precision}, {again} with activation checkpointing"
    yield from _state_rows(facts)
    yield from group_rows(facts.get("groups", {}))


def _unclip_cost_rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    flops, sampling = facts["tflop_per_picture"], facts["sampling"]
    yield "GFLOP forward", f"{facts['gflop_forward']:g}, of one sample at one step"
    yield (
        "TFLOP per picture",
        f"{flops['sampling']:g} ({sampling}), {flops['training']:g} in training",
    )
    yield from _checkpoint_rows(facts)
    kept = size_text(facts["activations_gib_per_sample"]["fp32"] * GIB)
    yield "activations", f"{kept} a sample in fp32"
    yield from _state_rows(facts)


def _checkpoint_rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    seconds = facts.get("checkpoint_seconds_by_one_process")
    how_long = f", {seconds:.3g} s to write by one process" if seconds else ""
    yield "checkpoint", size_text(facts["checkpoint_gib"] * GIB) + how_long


def _state_rows(facts: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what training keeps on each GPU; divided among GPUs only where that may be needed."""
    by_stage = dict(facts["state_gib_per_gpu_of_8"])
    replica = by_stage.pop("whole replicas")
    moments = ", with moments in 16 bits" if facts.get("moments") == "paper" else ""
    yield "training state", f"{size_text(replica * GIB)} on each GPU in whole replicas{moments}"
    if replica < SMALL:
        return

    yield "", "of 8 GPUs: " + _sizes(by_stage)
    yield "", "ZeRO 3: " + _sizes(facts["zero3_state_gib_per_gpu"])
    yield "", "DeepSpeed in bf16: " + _sizes(facts["deepspeed_bf16_gib_per_gpu"])


def _sizes(gib_by_name: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size_text(gib * GIB)}" for name, gib in gib_by_name.items())
