"""Pictures to image tokens and back by OpenAI's dVAE, and to embeddings by CLIP's ViT-B/32."""

from collections.abc import Callable

import torch
from clip_scoring import VIT_B_32
from gpu_measuring import IS_SMALL, cost_of, forget_peak, measure, open_gpu, tell_trouble

from dalle_cli.loading import build_clip, build_dvae
from dalle_cli.recipe import load_recipe
from dalle_cli.runtime.precision import Precision, apply_precision
from dalle_cli.training.tasks.frozen_dvae import prepare_for_inference

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
N_DECODED = 2 if IS_SMALL else 64
N_SCORED = 2 if IS_SMALL else 256
SMALL = ["model.image_size=32", "model.n_hidden=16", "model.n_init=16", "model.vocab_size=64"]


def main() -> None:
    """Measure both models in both precisions."""
    device = open_gpu()
    for precision in PRECISIONS:
        run_dvae(precision, device)
        run_clip(precision, device)


def run_dvae(precision: Precision, device: torch.device) -> None:
    dvae = build_dvae(load_recipe("dvae/openai", SMALL if IS_SMALL else [], kind="dvae").model)
    prepare_for_inference(dvae.eval().requires_grad_(False), precision=precision, device=device)
    n, side = N_DECODED, dvae.image_size
    images = torch.rand(n, 3, side, side, device=device)
    tokens = torch.randint(dvae.vocab_size, (n, dvae.grid_size**2), device=device)
    run("dVAE, encode", lambda: dvae.image_tokens(images), n, precision=precision)
    run("dVAE, decode", lambda: dvae.decode(tokens), n, precision=precision)


def run_clip(precision: Precision, device: torch.device) -> None:
    clip = build_clip(VIT_B_32).eval().requires_grad_(False).to(device)
    apply_precision(clip, precision, device)
    pixels = torch.randn(N_SCORED, 3, clip.image_size, clip.image_size, device=device)
    run("CLIP, embed", lambda: clip.encode_image(pixels), N_SCORED, precision=precision)


def run(name: str, work: Callable[[], object], n: int, *, precision: str) -> None:
    """Measure one kind of work."""
    title = f"{name}, {n} x {precision}"
    forget_peak()
    try:
        cost = cost_of(work)
        with torch.inference_mode():
            measure(title, work, n_samples=n, precision=precision, **cost)
    except Exception as error:
        tell_trouble(title, error)


if __name__ == "__main__":
    main()
