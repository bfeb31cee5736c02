"""What the tables of DALL-E 2 state are the arguments of its models, by name."""

from test_unclip import GOOD, TEXT

from dalle_cli.config import (
    AutoregressivePriorModelTable,
    DecoderModelTable,
    EmbeddingCodecTable,
    PriorModelTable,
    TextTransformerTable,
)
from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.models.unclip.autoregressive_prior import AutoregressivePrior
from dalle_cli.models.unclip.caption_encoders import StateCaptions, TokenCaptions
from dalle_cli.models.unclip.decoder import UnclipDecoder
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior
from dalle_cli.models.unclip.embedding_codec import EmbeddingCodec
from dalle_cli.models.unclip.unet import UNetSizes


def test_prior_is_built_from_its_table() -> None:
    table = PriorModelTable(**GOOD[PriorModelTable])
    prior = DiffusionPrior(**table.model_dump(exclude={"diffusion"}))
    assert prior.output.out_features == 64
    assert len(noise_schedule(table.diffusion.schedule, table.diffusion.n_steps)) == 1000


def test_autoregressive_prior_and_codec_are_built_from_their_tables() -> None:
    table = AutoregressivePriorModelTable(**GOOD[AutoregressivePriorModelTable])
    codec = EmbeddingCodecTable(**GOOD[EmbeddingCodecTable])
    n_components = len(EmbeddingCodec(**codec.model_dump()).components)
    assert AutoregressivePrior(**table.model_dump()).n_codes == n_components == 16


def test_decoder_is_built_from_its_table() -> None:
    table = DecoderModelTable(**GOOD[DecoderModelTable])
    side = table.image_size // table.patch_size
    states = StateCaptions(table.d_text, table.text_len, table.d_context)
    tokens = TokenCaptions(text_len=table.text_len, **TextTransformerTable(**TEXT).model_dump())
    for captions in (states, tokens, None):
        decoder = UnclipDecoder(
            UNetSizes(side, **table.unet.model_dump()),
            patch_size=table.patch_size,
            d_embed=table.d_embed,
            d_context=table.d_context,
            embedding_rms=table.embedding_rms,
            learns_variance=table.learns_variance,
            captions=captions,
        )
        assert decoder.image_size == table.image_size
