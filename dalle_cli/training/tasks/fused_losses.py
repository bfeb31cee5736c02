"""A transformer that gives its losses instead of its logits, which at the paper's size would fill gigabytes.

Put around the transformer from outside, for training: 256 x 16,384 and 1,024 x 8,192 logits of each sample are never in
memory at once. Captions end early, and slots after the end cost nothing.
"""

from torch import Tensor, nn

from dalle_cli.losses import linear_cross_entropy
from dalle_cli.models.transformer import Transformer


def fuse_losses(transformer: Transformer) -> None:
    """Let `forward` give losses, in place; parameters keep their names, and decoding slot by slot goes on as before."""
    transformer.__class__ = _LossTransformer
    for head in (transformer.text_head, transformer.image_head):
        head.__class__ = _LossHead


class _LossHead(nn.Linear):
    """A head that is called with what it should have said; a module, so that ZeRO 3 gathers its weights for it."""

    def forward(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return linear_cross_entropy(features, tokens, weight=self.weight, bias=self.bias)


class _LossTransformer(Transformer):
    """What a transformer becomes."""

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum -ln p over all text tokens, and over all image tokens, and count image tokens that were the likeliest."""
        text, image = self.features(text_tokens, image_tokens)
        text_loss, _ = self.text_head(text, text_tokens)
        image_loss, hits = self.image_head(image, image_tokens)
        return text_loss, image_loss, hits
