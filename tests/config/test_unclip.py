"""The tables of DALL-E 2's models: what must fit together, and what is one or the other."""

from typing import Any

import pytest
from pydantic import ValidationError

from dalle_cli.config import (
    AutoregressivePriorModelTable,
    DecoderLossTable,
    DecoderModelTable,
    DiffusionTable,
    EmbeddingCodecTable,
    PriorLossTable,
    PriorModelTable,
    Table,
    TextTransformerTable,
    UNetTable,
)

DIFFUSION = DiffusionTable(schedule="cosine", n_steps=1000)
TEXT = {"text_vocab_size": 300, "n_layers": 2, "d_model": 64, "n_heads": 2}
UNET = {
    **{"channels": 32, "multiples": [1, 2, 3], "depth": 2, "attention_sizes": [8, 4]},
    **{"d_head": 16, "n_groups": 8, "dropout": 0.1},
}
GOOD: dict[type[Table], dict[str, Any]] = {
    DiffusionTable: {"schedule": "linear", "n_steps": 1000},
    PriorModelTable: {
        **{"d_embed": 64, "text_len": 12, "d_text": 64, "n_layers": 3, "d_model": 64},
        **{"n_heads": 2, "embedding_rms": 0.5375, "diffusion": DIFFUSION},
    },
    PriorLossTable: {"caption_dropout": 0.1},
    EmbeddingCodecTable: {"d_embed": 64, "n_components": 16, "n_buckets": 64},
    AutoregressivePriorModelTable: {
        **{"d_embed": 64, "text_len": 12, "d_text": 64, "n_components": 16, "n_buckets": 64},
        **{"n_layers": 3, "d_model": 64, "n_heads": 2},
    },
    UNetTable: UNET,
    TextTransformerTable: TEXT,
    DecoderModelTable: {
        **{"image_size": 32, "patch_size": 2, "d_embed": 64, "d_context": 64},
        **{"embedding_rms": 1.0, "text_len": 12, "d_text": 64, "predicts": "noise"},
        **{"learns_variance": True},
        **{"unet": UNetTable(**UNET), "diffusion": DIFFUSION},
    },
    DecoderLossTable: {"embedding_dropout": 0.1, "caption_dropout": 0.5},
}
EITHER = {"d_text", "text_len"}  # keys that go with another one


def refused(table: type[Table], **changes: object) -> str:
    with pytest.raises(ValidationError) as caught:
        table(**{**GOOD[table], **changes})
    return str(caught.value)


@pytest.mark.parametrize("table", GOOD, ids=lambda table: table.__name__)
def test_examples_are_good_and_every_key_of_them_is_needed(table: type[Table]) -> None:
    table(**GOOD[table])
    for key in GOOD[table]:
        with pytest.raises(ValidationError) as caught:
            table(**{name: value for name, value in GOOD[table].items() if name != key})
        assert "Field required" in str(caught.value) or key in EITHER


@pytest.mark.parametrize(
    ("table", "changes", "told"),
    [
        (DiffusionTable, {"n_steps": 20}, "linear schedule needs more than 20 steps: 20"),
        (PriorModelTable, {"n_heads": 3}, "d_model 64 is not divisible by n_heads 3"),
        (PriorModelTable, {"d_model": 9, "n_heads": 3}, "d_model 9 is not even"),
        (EmbeddingCodecTable, {"n_components": 65}, "65 is more than d_embed 64"),
        (AutoregressivePriorModelTable, {"n_heads": 3}, "not divisible by n_heads 3"),
        (UNetTable, {"n_groups": 5}, "a width of 32 is not divisible by n_groups 5"),
        (UNetTable, {"channels": 15}, "channels 15 is not even"),
        (TextTransformerTable, {"n_heads": 3}, "d_model 64 is not divisible by n_heads 3"),
        (DecoderModelTable, {"image_size": 36}, "image_size 36 is not divisible by 8"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(
    table: type[Table], changes: dict[str, Any], told: str
) -> None:
    assert told in refused(table, **changes)


def test_attention_is_at_sides_that_there_are() -> None:
    unet = UNetTable(**{**UNET, "attention_sizes": [32, 8]})
    assert "attention_sizes [32] are not among the levels' sides, 16, 8, 4" in refused(
        DecoderModelTable, unet=unet
    )


@pytest.mark.parametrize(
    ("sizes", "d_head", "width"), [([8], 48, 64), ([16], 48, 32), ([8], 64, 96)]
)
def test_heads_divide_widths_with_attention_and_the_middle(
    sizes: list[int], d_head: int, width: int
) -> None:
    unet = UNetTable(**{**UNET, "attention_sizes": sizes, "d_head": d_head})
    assert f"a width of {width} is not divisible by d_head {d_head}" in refused(
        DecoderModelTable, unet=unet
    )
    DecoderModelTable(
        **{
            **GOOD[DecoderModelTable],
            "unet": UNetTable(**{**UNET, "attention_sizes": [], "d_head": 48}),
        }
    )


def test_prior_reads_captions_in_one_way() -> None:
    told = "must have either `d_text` or `text_vocab_size`, and not both"
    assert told in refused(PriorModelTable, text_vocab_size=300)
    assert told in refused(PriorModelTable, d_text=None)
    PriorModelTable(**{**GOOD[PriorModelTable], "d_text": None, "text_vocab_size": 300})


def test_decoder_reads_captions_in_one_way_or_not_at_all() -> None:
    text = TextTransformerTable(**TEXT)
    assert "either `d_text` or `text`" in refused(DecoderModelTable, text=text)
    assert "`text_len` goes with" in refused(DecoderModelTable, text_len=None)
    assert "`text_len` goes with" in refused(DecoderModelTable, d_text=None)
    DecoderModelTable(**{**GOOD[DecoderModelTable], "d_text": None, "text_len": None})
    DecoderModelTable(**{**GOOD[DecoderModelTable], "d_text": None, "text": text})
    assert "d_context 32 is not the text transformer's width, 64" in refused(
        DecoderModelTable, d_text=None, text=text, d_context=32
    )


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (DiffusionTable, "schedule", "sigmoid"),
        (DiffusionTable, "n_steps", 1),
        (PriorModelTable, "embedding_rms", 0.0),
        (PriorLossTable, "caption_dropout", 1.0),
        (EmbeddingCodecTable, "n_buckets", 1),
        (UNetTable, "multiples", []),
        (UNetTable, "multiples", [1, 0]),
        (UNetTable, "dropout", 1.0),
        (DecoderModelTable, "patch_size", 0),
        (DecoderLossTable, "embedding_dropout", -0.1),
    ],
)
def test_values_out_of_bounds_are_refused_by_key(
    table: type[Table], key: str, value: object
) -> None:
    assert key in refused(table, **{key: value})
