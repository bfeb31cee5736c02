"""Picture embeddings by our CLIP or by that of transformers: ViT-B/32, the same batch and dtype.

Usage: clip_scoring.py dalle|transformers fp32|bf16
"""

import sys

import torch
from measuring import count_flops, measure
from torch import Tensor

from dalle_cli.config import TowerTable, TrainedClipTable
from dalle_cli.loading import build_clip
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD
from dalle_cli.runtime.devices import open_device
from dalle_cli.runtime.precision import DTYPES, Precision, apply_precision

BATCH_SIZE = 32
VIT_B_32 = TrainedClipTable(
    image_size=224, patch_size=32, text_len=77, d_embed=512, activation="quick_gelu",
    vision=TowerTable(n_layers=12, d_model=768, n_heads=12, d_mlp=3072),
    text=TowerTable(n_layers=12, d_model=512, n_heads=8, d_mlp=2048),
    text_vocab_size=49408, end_of_text=None,
    pixel_mean=list(PIXEL_MEAN), pixel_std=list(PIXEL_STD),
)  # fmt: skip


@torch.no_grad()
def main(whose: str, precision: Precision) -> None:
    """Time batches of random pixels."""
    torch.manual_seed(0)
    device, _ = open_device("cpu", precision)
    pixels = torch.randn(BATCH_SIZE, 3, VIT_B_32.image_size, VIT_B_32.image_size)
    if whose == "transformers":
        measure_peer(pixels, precision)
        return

    clip = build_clip(VIT_B_32).eval()
    apply_precision(clip, precision, device)
    flops = count_flops(lambda: clip.encode_image(pixels))
    with torch.inference_mode():
        measure(lambda: clip.encode_image(pixels), flops)


@torch.inference_mode()
def measure_peer(pixels: Tensor, precision: Precision) -> None:
    """Time the model of transformers, whose default sizes are these."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    peer = CLIPModel(CLIPConfig()).eval().to(DTYPES.get(precision, torch.float32))
    pixels = pixels.to(peer.dtype)
    measure(lambda: peer.get_image_features(pixel_values=pixels))


if __name__ == "__main__":
    main(*sys.argv[1:])
