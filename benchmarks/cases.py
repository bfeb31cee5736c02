"""The cases that `make bench` times, and the pairs that it compares."""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = Path(sys.executable)
PEERS = ROOT / "build/peer-venv/bin/python"  # `make bench-peer` makes it

FP32, BF16 = "fp32 matmul, fastest route", "bf16 matmul"
FP32_CONVOLUTION, BF16_CONVOLUTION = "fp32 convolution", "bf16 convolution"
COPY = "copy"


@dataclass(frozen=True)
class Case:
    """A script of this folder with its arguments."""

    name: str
    command: str
    ceiling: str | None = None  # name of the case whose rate is an upper bound
    python: Path = OURS


@dataclass(frozen=True)
class Group:
    """Cases that take turns, and pairs of names (first, second): how much faster the first is."""

    title: str
    cases: tuple[Case, ...]
    pairs: tuple[tuple[str, str], ...] = ()


CEILINGS = Group(
    "ceilings of this CPU",
    (
        Case("fp32 matmul, default route", "ceilings.py matmul fp32 highest"),
        Case(FP32, "ceilings.py matmul fp32 fastest"),
        Case(BF16, "ceilings.py matmul bf16 fastest"),
        Case(FP32_CONVOLUTION, "ceilings.py convolution fp32 fastest"),
        Case(BF16_CONVOLUTION, "ceilings.py convolution bf16 fastest"),
        Case(COPY, "ceilings.py copy fp32 highest"),
    ),
)

TRAINING = Group(
    "transformer, training step: loss and backward, "
    "4 x (256 text + 32x32 image tokens), 8 layers of 256",
    (
        Case("dalle fp32", "training_step.py fp32", FP32),
        Case("dalle-pytorch fp32 as shipped", "peer_training_step.py fp32 highest", python=PEERS),
        Case("dalle bf16", "training_step.py bf16", BF16),
        Case("dalle-pytorch fp32, fast route", "peer_training_step.py fp32 medium", python=PEERS),
        Case("dalle-pytorch bf16 autocast", "peer_training_step.py bf16 medium", python=PEERS),
    ),
    (
        ("dalle fp32", "dalle-pytorch fp32 as shipped"),
        ("dalle fp32", "dalle-pytorch fp32, fast route"),
        ("dalle bf16", "dalle-pytorch fp32 as shipped"),
        ("dalle bf16", "dalle-pytorch bf16 autocast"),
    ),
)

ATTENTION = Group(
    "attention of one of these layers, forward and backward, fp32: "
    "allowed pairs alone, or all under a mask",
    tuple(
        Case(f"{kind}, {way}", f"attention_layer.py {way} {kind}", FP32)
        for kind in ("row", "column")
        for way in ("sparse", "dense")
    ),
    (("row, sparse", "row, dense"), ("column, sparse", "column, dense")),
)

GENERATION = Group(
    "generation by the same transformer: prefill, and 1,024 image tokens per sample, 64 text slots",
    (
        *(
            Case(f"{n} x {way} {precision}", f"generation.py {n} {n} 64 {precision} {way}", COPY)
            for n in (1, 8)
            for precision in ("fp32", "bf16")
            for way in ("eager", "compiled")
        ),
        Case("32 x compiled bf16", "generation.py 32 32 64 bf16 compiled", COPY),
        *(
            Case(f"{n} x dalle-pytorch fp32, {way}", f"peer_generation.py {n} {way}", python=PEERS)
            for n in (1, 8)
            for way in ("shipped", "cached")
        ),
    ),
    tuple(
        (f"{n} x {ours}", f"{n} x dalle-pytorch fp32, {theirs}")
        for n in (1, 8)
        for theirs in ("shipped", "cached")
        for ours in ("eager fp32", "compiled fp32", "compiled bf16")
    ),
)

SHARING = Group(
    "generation of 32 and 64 samples, 256 text slots: from one caption, or each from its own",
    tuple(
        Case(
            f"{n} of {captions}, {precision} {way}",
            f"generation.py {n} {captions} 256 {precision} {way}",
            COPY,
        )
        for n in (32, 64)
        for precision, way in (("fp32", "eager"), ("bf16", "compiled"))
        for captions in (1, n)
    ),
    tuple(
        (f"{n} of 1, {how}", f"{n} of {n}, {how}")
        for n in (32, 64)
        for how in ("fp32 eager", "bf16 compiled")
    ),
)

CHOOSING = Group(
    "choosing as many tokens from 8,192 logits, without the transformer",
    tuple(
        Case(f"{n} x {name}", f"choosing.py {n} {limits}")
        for n in (1, 8, 64)
        for name, limits in (("unfiltered", "0 1"), ("top-k 256", "256 1"), ("top-p 0.9", "0 0.9"))
    ),
)

DVAE = Group(
    "dVAE of the paper's size: 2 pictures of 256 px to tokens, and back",
    tuple(
        Case(f"{way} {precision}", f"dvae_pass.py {way} {precision}", ceiling)
        for way in ("encode", "decode")
        for precision, ceiling in (("fp32", FP32_CONVOLUTION), ("bf16", BF16_CONVOLUTION))
    ),
)

ENCODING = Group(
    "transformer/base, training step on a picture of 256 px: "
    "encoded by OpenAI's dVAE within the step, or in advance",
    tuple(Case(f"bf16, {what}", f"base_step.py {what} bf16") for what in ("pictures", "tokens")),
    (("bf16, tokens", "bf16, pictures"),),
)

DVAE_TRAINING = Group(
    "dVAE, training step: loss and backward, 2 pictures of 256 px; "
    "small: as many parameters as dalle-pytorch's",
    (
        Case("dalle fp32, small", "dvae_training_step.py small fp32", FP32_CONVOLUTION),
        Case("dalle bf16, small", "dvae_training_step.py small bf16", BF16_CONVOLUTION),
        Case(
            "dalle-pytorch fp32",
            "peer_dvae_training_step.py highest",
            FP32_CONVOLUTION,
            python=PEERS,
        ),
        Case("dalle fp32, the paper's", "dvae_training_step.py paper fp32", FP32_CONVOLUTION),
        Case("dalle bf16, the paper's", "dvae_training_step.py paper bf16", BF16_CONVOLUTION),
    ),
    (("dalle fp32, small", "dalle-pytorch fp32"), ("dalle bf16, small", "dalle-pytorch fp32")),
)

DECODER_TRAINING = Group(
    "decoder of DALL-E 2, training step: loss and backward, decoder/demo, 32 pictures of 32 px",
    (
        Case("dalle fp32", "decoder_training_step.py fp32", FP32_CONVOLUTION),
        Case("dalle bf16", "decoder_training_step.py bf16", BF16_CONVOLUTION),
    ),
)

SHARED_CORES = Group(
    "16 updates of transformer/demo, alone or beside two programs of a thread each: "
    "threads by the load, or always all",
    tuple(
        Case(f"{where}, {way}", f"beside_others.py {way} {n_others}")
        for where, n_others in (("alone", 0), ("beside two", 2))
        for way in ("auto", "all")
    ),
    (
        ("alone, auto", "alone, all"),
        ("beside two, auto", "alone, auto"),
        ("beside two, all", "alone, all"),
        ("beside two, auto", "beside two, all"),
    ),
)

CLIP = Group(
    "CLIP ViT-B/32: embeddings of 32 pictures",
    (
        Case("dalle fp32", "clip_scoring.py dalle fp32", FP32),
        Case("transformers fp32", "clip_scoring.py transformers fp32"),
        Case("dalle bf16", "clip_scoring.py dalle bf16", BF16),
        Case("transformers bf16", "clip_scoring.py transformers bf16"),
    ),
    (("dalle fp32", "transformers fp32"), ("dalle bf16", "transformers bf16")),
)

LOADING = Group(
    "32 JPEG files to a batch of 256 px with captions, against decoding them alone; by short side",
    tuple(
        Case(f"{side} px, {what}", f"loading.py {what} {side}")
        for side in (256, 512, 1024)
        for what in ("dalle", "bare")
    ),
    tuple((f"{side} px, dalle", f"{side} px, bare") for side in (256, 512, 1024)),
)

SHARDS = Group(
    "opening 50 tar shards of 1,000 captioned pictures",
    tuple(Case(what, f"opening_shards.py {what} 50") for what in ("first", "again")),
)

LONG_RUN = Group(
    "a whole training run of transformer/demo, on captions of 1 to 40 words: does its memory grow?",
    tuple(
        Case(f"{n} updates, {workers} workers", f"long_run_memory.py {n} {workers}")
        for n in (8, 300)
        for workers in (0, 2)
    ),
)

GROUPS = (
    TRAINING,
    ATTENTION,
    GENERATION,
    SHARING,
    CHOOSING,
    DVAE,
    ENCODING,
    DVAE_TRAINING,
    DECODER_TRAINING,
    SHARED_CORES,
    LONG_RUN,
    CLIP,
    LOADING,
    SHARDS,
)
