"""The transformer as it trains: its heads return losses in place of logits.

At the paper's size the logits would fill gigabytes: the 256 x 16,384 text logits and the
1,024 x 8,192 image logits of a sample are never in memory at once. Captions end early, and the
slots after their end cost nothing. Parameter names and, for a seed, initial weights are those of
`models.transformer.Transformer`. Knows nothing of batches, nor of how the two losses are weighed.
"""

import torch
from torch import Tensor, nn

from dalle_cli.config import TransformerModelTable
from dalle_cli.losses import linear_cross_entropy
from dalle_cli.models.transformer import TransformerBackbone
from dalle_cli.runtime.precision import Precision


class FusedLossHead(nn.Linear):
    """A head that is called with its targets, too, and returns their loss.

    A module, so that ZeRO 3 gathers its weights for the call.
    """

    gradient_dtype = torch.float32  # of what is multiplied for the gradients

    def forward(  # type: ignore[override]  # targets come second
        self, features: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of -ln p(token), fp32 [], and how many tokens are the likeliest, int64 [].

        features  [B, N, D]
        tokens    int64 [B, N], -1 where there is nothing to predict
        """
        return linear_cross_entropy(
            features, tokens, weight=self.weight, bias=self.bias, dtype=self.gradient_dtype
        )


class FusedLossTransformer(TransformerBackbone):
    """Transformer whose forward returns summed losses in place of logits."""

    head_type = FusedLossHead

    def forward(
        self, text_tokens: Tensor, image_tokens: Tensor, given_tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute both losses of predicting every token from those before it.

        text_tokens   int64 [B, T], at most T - 1 caption tokens, then -1
        image_tokens  int64 [B, I] in raster order; unshifted, like text_tokens
        given_tokens  int64 [B, I]: image tokens to predict from; None: image_tokens
        returns       the sums of -ln p over all text tokens and over all image tokens, fp32 []
                      each, and the number of image tokens that were the likeliest, int64 []
        """
        given = image_tokens if given_tokens is None else given_tokens
        text, image = self.features(text_tokens, given)  # [B, T, D] and [B, I, D]
        text_loss, _ = self.text_head(text, text_tokens)
        image_loss, hits = self.image_head(image, image_tokens)
        return text_loss, image_loss, hits


def build_fused_transformer(
    model: TransformerModelTable, text_vocab_size: int, precision: Precision = "fp32"
) -> FusedLossTransformer:
    """Build a transformer for training, with the fresh weights of `loading.build_transformer`.

    In bf16 its heads multiply in bf16 for the gradients; their logits are fp32. In fp16 they don't:
    most gradients by logits are too small for it.
    """
    transformer = FusedLossTransformer(**{**model.model_dump(), "text_vocab_size": text_vocab_size})
    for module in transformer.modules():
        if isinstance(module, FusedLossHead) and precision == "bf16":
            module.gradient_dtype = torch.bfloat16
    return transformer
