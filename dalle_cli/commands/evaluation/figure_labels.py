"""What each figure of an evaluation is called for people, in order, and which value is better."""

from typing import NamedTuple

from dalle_cli.errors import printable
from dalle_cli.evaluation.figures.blur import RADII

HIGHER, LOWER = True, False


class Shown(NamedTuple):
    """How a figure is shown: its label, its format, and which value is better, if one is."""

    label: str
    form: str
    better: bool | None = None


FIGURES = {
    "nats_per_text_token": Shown("nats per text token", "{:.4f}", LOWER),
    "bits_per_text_token": Shown("bits per text token", "{:.4f}", LOWER),
    "text_token_accuracy": Shown("likeliest text token is right", "{:.2%}", HIGHER),
    "nats_per_image_token": Shown("nats per image token", "{:.4f}", LOWER),
    "bits_per_image_token": Shown("bits per image token", "{:.4f}", LOWER),
    "image_token_accuracy": Shown("likeliest image token is right", "{:.2%}", HIGHER),
    "psnr": Shown("PSNR of reconstructions, dB", "{:.2f}", HIGHER),
    "ssim": Shown("SSIM of reconstructions", "{:.4f}", HIGHER),
    "codes_used": Shown("codebook entries in use", "{:,.0f}", HIGHER),
    "vocab_size": Shown("codebook entries", "{:,.0f}"),
    "perplexity": Shown("perplexity of the codebook", "{:.1f}"),
    "perplexity_without_blanks": Shown("the same without blank cells", "{:.1f}"),
    "bits_per_pixel": Shown("bits per pixel", "{:.4f}"),
    "bits_per_pixel_by_entropy": Shown("bits per pixel, by entropy", "{:.4f}"),
    "clip_score": Shown("cosine of picture and caption", "{:.4f}", HIGHER),
    **{
        f"{way}_recall_at_{k}": Shown(f"{way} retrieval, recall at {k}", "{:.2%}", HIGHER)
        for way in ("text", "image")
        for k in (1, 5, 10)
    },
    **{f"fid/blur_{r}": Shown(f"FID, blur {r}", "{:.2f}", LOWER) for r in RADII},
    **{
        f"inception_score/blur_{r}": Shown(f"Inception Score, blur {r}", "{:.2f}", HIGHER)
        for r in RADII
    },
    "clip/score": Shown("CLIP score", "{:.4f}", HIGHER),
    "clip/score_of_data": Shown("CLIP score of the real pictures", "{:.4f}"),
    "clip/frechet_distance": Shown("Fréchet distance by CLIP", "{:.4f}", LOWER),
    "clip/precision": Shown("precision", "{:.2%}", HIGHER),
    "clip/recall": Shown("recall", "{:.2%}", HIGHER),
    "clip/density": Shown("density", "{:.4f}", HIGHER),
    "clip/coverage": Shown("coverage", "{:.2%}", HIGHER),
    **{
        f"clip/{way}_recall_at_{k}": Shown(f"{way} of samples, recall at {k}", "{:.2%}", HIGHER)
        for way in ("text", "image")
        for k in (1, 5, 10)
    },
    "diversity/clip_distance": Shown("samples of one caption, by CLIP", "{:.4f}"),
    "diversity/clip_distance_of_data": Shown("real pictures, by CLIP", "{:.4f}"),
    "diversity/pixel_distance": Shown("samples of one caption, by pixels", "{:.4f}"),
    "diversity/pixel_distance_of_data": Shown("real pictures, by pixels", "{:.4f}"),
    "nearest/clip_distance": Shown("nearest training picture, by CLIP", "{:.4f}"),
    "nearest/clip_distance_of_data": Shown("the same of real ones, by CLIP", "{:.4f}"),
    "nearest/close_by_clip_distance": Shown("nearer than real ones, by CLIP", "{:.2%}", LOWER),
    "nearest/pixel_distance": Shown("nearest training picture, by pixels", "{:.4f}"),
    "nearest/pixel_distance_of_data": Shown("the same of real ones, by pixels", "{:.4f}"),
    "nearest/close_by_pixel_distance": Shown("nearer than real ones, by pixels", "{:.2%}", LOWER),
}


def shown_as(name: str) -> Shown:
    """Return how a figure is shown; one that is not known, by its own name."""
    return FIGURES.get(name, Shown(printable(name), "{:.4g}"))


def number_text_of(name: str, value: float) -> str:
    """Return a figure's value as people read it."""
    return shown_as(name).form.format(value)
