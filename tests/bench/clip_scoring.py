"""Pictures scored a second by our CLIP and by transformers's: the same sizes, weights, batch and dtype, in turn.

Run by `make bench`. What counts is the ratio: both work in one process, one batch each at a time, and the median over
rounds is taken, since the machine may be busy. Usage: clip_scoring.py [ROUNDS]
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging

from dalle_cli.config import TowerTable, TrainedClipTable
from dalle_cli.interop.clip_names import from_hugging_face
from dalle_cli.loading import build_clip
from dalle_cli.models.clip import PIXEL_MEAN, PIXEL_STD, Clip
from dalle_cli.training.precision import apply_precision, open_device

BATCH_SIZE = {"cpu": 32, "cuda": 512}
VIT_B_32 = TrainedClipTable(
    image_size=224, patch_size=32, text_len=77, d_embed=512, activation="quick_gelu",
    vision=TowerTable(n_layers=12, d_model=768, n_heads=12, d_mlp=3072),
    text=TowerTable(n_layers=12, d_model=512, n_heads=8, d_mlp=2048),
    text_vocab_size=49408, end_of_text=None, pixel_mean=list(PIXEL_MEAN), pixel_std=list(PIXEL_STD),
)  # fmt: skip


def main(rounds: int) -> None:
    """Print both throughputs and their ratio for each precision."""
    logging.set_verbosity_error()
    device, _ = open_device("auto", "fp32")
    torch.manual_seed(0)
    peer = CLIPModel(CLIPConfig(text_config={"eos_token_id": 2})).eval().to(device)
    pixels = torch.randn(BATCH_SIZE[device.type], 3, 224, 224, device=device)
    threads = torch.get_num_threads()
    print(f"ViT-B/32, batches of {len(pixels)} on {device.type}, {threads} threads, torch {torch.__version__}")
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        ours = build_clip(VIT_B_32).eval().to(device)
        ours.load_state_dict(from_hugging_face(peer.state_dict()))
        apply_precision(ours, precision, device)
        theirs = peer.to(dtype)
        contest(
            precision, ours, lambda x, m=theirs, d=dtype: m.get_image_features(pixel_values=x.to(d)), pixels, rounds
        )
        peer.float()


@torch.inference_mode()
def contest(name: str, ours: Clip, theirs: Callable[[Tensor], object], pixels: Tensor, rounds: int) -> None:
    """Time both in turn and print pictures a second."""
    times = [(seconds(ours.encode_image, pixels), seconds(theirs, pixels)) for _ in range(rounds + 1)][1:]
    own, peer = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(b / a for a, b in times)
    print(f"{name}  dalle {len(pixels) / own:8.1f}/s  transformers {len(pixels) / peer:8.1f}/s  ratio {ratio:.2f}")


def seconds(encode: Callable[[Tensor], object], pixels: Tensor) -> float:
    """Time one batch."""
    start = time.perf_counter()
    encode(pixels)
    if pixels.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
