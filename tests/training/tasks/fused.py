"""What tests of fused losses share: a transformer that returns losses, given one of logits."""

from dalle_cli.models.transformer import Transformer
from dalle_cli.training.tasks.fused_losses import FusedLossTransformer


def fused(plain: Transformer) -> FusedLossTransformer:
    """Build a transformer that returns losses, with the weights of one that returns logits."""
    model = FusedLossTransformer(
        text_vocab_size=plain.text_vocab_size,
        image_vocab_size=plain.image_vocab_size,
        text_len=plain.text_len,
        grid_size=plain.grid_size,
        n_layers=len(plain.blocks),
        d_model=plain.start_of_text.numel(),
        n_heads=plain.blocks[0].attention.attention.n_heads,
        kernel_size=plain.kernel_size,
    )
    model.load_state_dict(plain.state_dict())
    return model
