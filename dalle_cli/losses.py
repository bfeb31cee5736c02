"""The loss functions of the paper, pure and in fp32; reductions beyond a token or a pixel are the task's business."""

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = TypeVar("Loss", Tensor, float)

SMALLEST_LOG_PROB = (
    -80.0
)  # the exponential of one below -87, too small for fp32, takes a CPU ten times as long
LOGITS_AT_ONCE = 2**21  # 8 MiB, which a processor's cache holds
LOGITS_AT_ONCE_ON_GPUS = 2**27  # 512 MiB, so that no product is too small to fill one


def logit_laplace_nll(mapped: Tensor, mu: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-density, in nats, of each pixel value under the logit-Laplace (Ramesh et al. 2021, appendix A.3).

    mapped     [B, 3, H, W], strictly inside (0, 1): `map_pixels` sees to that
    mu         [B, 3, H, W], the location on the logit axis
    log_scale  [B, 3, H, W], ln b
    returns    [B, 3, H, W]
    """
    log_jacobian = mapped.log() + torch.log1p(-mapped)
    distance = (torch.logit(mapped) - mu).abs()
    return math.log(2) + log_scale + log_jacobian + distance * (-log_scale).exp()


def kl_to_uniform(logits: Tensor) -> Tensor:
    """Divergence, in nats, of each cell's categorical from the uniform one: logits [B, K, g, g] -> [B, g, g].

    Analytic, from un-noised and un-tempered logits: ln K - H(softmax(logits)), between 0 and ln K.
    """
    return _NegativeEntropy.apply(logits.float().movedim(1, -1)) + math.log(logits.shape[1])


class _NegativeEntropy(torch.autograd.Function):
    """Sum of p ln p over the last dimension, p its softmax; by few passes over what is the widest tensor of a dVAE."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        log_probs = F.log_softmax(logits, dim=-1).clamp_(min=SMALLEST_LOG_PROB)
        total = (log_probs.exp() * log_probs).sum(dim=-1)
        ctx.save_for_backward(log_probs, total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        log_probs, total = ctx.saved_tensors
        return log_probs.exp().mul_(log_probs - total[..., None]).mul_(gradient[..., None])


def token_cross_entropy(logits: Tensor, tokens: Tensor, count: int | None = None) -> Tensor:
    """Sum of -ln p(token) over the tokens that are not -1, divided by count.

    logits   [B, N, V]
    tokens   int64 [B, N], -1 where there is nothing to predict
    count    what to divide by, where these rows are a part of a larger batch; default: the tokens counted here
    """
    total = F.cross_entropy(
        logits.flatten(0, 1).float(), tokens.flatten(), ignore_index=-1, reduction="sum"
    )
    if count is None:
        count = int((tokens >= 0).sum())
    return total / max(count, 1)


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of -ln p(token) of a linear layer's softmax over the tokens that are not -1, and how often it says the token.

    features  [..., D]    weight  [V, D]    bias  [V]
    tokens    int64 [...], -1 where there is nothing to predict
    returns   the sum, fp32 [], and the count of tokens that are the likeliest, int64 []

    Logits are computed some rows at a time, never all at once, and their gradients with them.
    """
    is_given = tokens >= 0
    is_differentiated = torch.is_grad_enabled()
    return _LinearCrossEntropy.apply(
        features[is_given], weight, bias, tokens[is_given], is_differentiated
    )


class _LinearCrossEntropy(torch.autograd.Function):
    """With e = exp(logits - largest) and s its sum, p = e / s; s is divided out of the smaller factors of products."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        tokens: Tensor,
        is_differentiated: bool,
    ) -> tuple[Tensor, Tensor]:
        gradients = (
            [torch.zeros_like(x) for x in (features, weight, bias)] if is_differentiated else []
        )
        total, hits = features.new_zeros(()), tokens.new_zeros(())
        at_once = LOGITS_AT_ONCE if features.device.type == "cpu" else LOGITS_AT_ONCE_ON_GPUS
        n_rows = max(at_once // len(weight), 1)
        for start in range(0, len(features), n_rows):
            rows = slice(start, start + n_rows)
            own, targets = features[rows], tokens[rows]
            logits = F.linear(own, weight, bias)
            at_target = logits.gather(1, targets[:, None])
            largest, likeliest = logits.max(dim=1, keepdim=True)
            weights = logits.sub_(largest).exp_()
            sums = weights.sum(dim=1, keepdim=True)
            total += (sums.log() + largest - at_target).sum()
            hits += (likeliest.squeeze(1) == targets).sum()
            if is_differentiated:
                by_features, by_weight, by_bias = gradients
                by_features[rows] = (weights @ weight).div_(sums).sub_(weight[targets])
                by_weight.addmm_(weights.T, own / sums).index_add_(0, targets, own, alpha=-1)
                by_bias.addmv_(weights.T, sums.reciprocal().squeeze(1)).sub_(
                    targets.bincount(minlength=len(bias))
                )
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        by_features, by_weight, by_bias = (saved * gradient for saved in ctx.saved_tensors)
        return by_features, by_weight, by_bias, None, None


def text_image_cross_entropy(
    text_logits: Tensor,
    image_logits: Tensor,
    text_tokens: Tensor,
    image_tokens: Tensor,
    text_weight: float = 1 / 8,
) -> Tensor:
    """Weigh the mean over text tokens against the mean over image tokens, 1 to 7 (Ramesh et al. 2021, section 2.2).

    text_logits   [B, T, Vt]    image_logits  [B, I, Vi]
    text_tokens   int64 [B, T]  image_tokens  int64 [B, I]; -1 where there is nothing to predict
    """
    text = token_cross_entropy(text_logits, text_tokens)
    image = token_cross_entropy(image_logits, image_tokens)
    return weigh(text, image, text_weight)


def contrastive_loss(logits_per_image: Tensor) -> Tensor:
    """Tell each picture's caption from the others', and each caption's picture: the mean of both cross-entropies.

    logits_per_image  [B, B], scaled cosines, pairs on the diagonal (Radford et al. 2021, figure 3)
    """
    own = torch.arange(len(logits_per_image), device=logits_per_image.device)
    logits = logits_per_image.float()
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def weigh(text: Loss, image: Loss, text_weight: float) -> Loss:
    """Mix the losses of the two modalities, in nats per token of each."""
    return text_weight * text + (1 - text_weight) * image
