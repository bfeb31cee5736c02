"""The loss functions of the paper: pure, and in fp32.

Reductions beyond a token or a pixel are the task's business. Axes used below:

    B batch    H W height and width of an image    K codebook size    g side of the token grid
    N tokens    T text tokens    I image tokens    D model width    V Vt Vi sizes of vocabularies
    R rows at a time
"""

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = TypeVar("Loss", Tensor, float)

# below -87 an exponential is too small for a normal fp32 number, and takes a CPU ten times as long
SMALLEST_LOG_PROB = -80.0

LOGITS_AT_ONCE = 2**21  # 8 MiB, which fit into a processor's cache
LOGITS_AT_ONCE_ON_GPUS = 2**27  # 512 MiB, so that no product is too small to fill a GPU
ROWS_TOGETHER = 64  # rows of logits come in multiples of this, as far as there are tokens


def logit_laplace_nll(mapped: Tensor, mu: Tensor, log_scale: Tensor) -> Tensor:
    """Compute each pixel value's negative log-density, in nats, under the logit-Laplace.

    Ramesh et al. 2021, appendix A.3.

    mapped     [B, 3, H, W], strictly inside (0, 1), which `map_pixels` ensures
    mu         [B, 3, H, W], the location on the logit axis
    log_scale  [B, 3, H, W], ln b
    returns    [B, 3, H, W]
    """
    # the change of variables from x to logit(x), whose derivative is 1 / (x (1 - x))
    log_jacobian = mapped.log() + torch.log1p(-mapped)
    distance = (torch.logit(mapped) - mu).abs()
    return math.log(2) + log_scale + log_jacobian + distance * (-log_scale).exp()


def kl_to_uniform(logits: Tensor) -> Tensor:
    """Compute the divergence, in nats, of each cell's categorical from the uniform one.

    logits   [B, K, g, g], without noise or temperature
    returns  [B, g, g], ln K - H(softmax(logits)), between 0 and ln K
    """
    cells = logits.float().movedim(1, -1)  # [B, g, g, K]
    return _NegativeEntropy.apply(cells) + math.log(logits.shape[1])


class _NegativeEntropy(torch.autograd.Function):
    """Sum of p ln p over the last dimension, where p is its softmax.

    Takes few passes over the widest tensor of a dVAE.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        log_probs = F.log_softmax(logits, dim=-1).clamp_(min=SMALLEST_LOG_PROB)
        total = (log_probs.exp() * log_probs).sum(dim=-1)
        ctx.save_for_backward(log_probs, total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        log_probs, total = ctx.saved_tensors

        # d total / d logits = p (ln p - total)
        return log_probs.exp().mul_(log_probs - total[..., None]).mul_(gradient[..., None])


def token_cross_entropy(logits: Tensor, tokens: Tensor, count: int | None = None) -> Tensor:
    """Compute the sum of -ln p(token) over the tokens that are not -1, divided by count.

    logits   [B, N, V]
    tokens   int64 [B, N], -1 where there is nothing to predict
    count    the divisor, if these rows are part of a larger batch; default: the tokens counted here
    """
    rows = logits.flatten(0, 1).float()  # [B * N, V]
    total = F.cross_entropy(rows, tokens.flatten(), ignore_index=-1, reduction="sum")

    if count is None:
        count = int((tokens >= 0).sum())
    return total / max(count, 1)


def linear_cross_entropy(
    features: Tensor,
    tokens: Tensor,
    *,
    weight: Tensor,
    bias: Tensor,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Compute a linear layer's summed cross-entropy, and count the tokens that it predicts.

    features  [..., D]    weight  [V, D]    bias  [V]
    tokens    int64 [...], -1 where there is nothing to predict
    dtype     of what is multiplied for the gradients; logits are fp32
    returns   the sum of -ln p(token) over the tokens that are not -1, fp32 [], and how many of them
              are the likeliest token, int64 []

    Logits are computed some rows at a time, never all at once, and their gradients with them.
    """
    inputs, targets = features.flatten(0, -2), tokens.flatten()  # [N, D], [N]
    # on a GPU the host would have to wait until it is known how many are given
    if features.device.type == "cpu":
        chosen = _given_rows(targets)
        inputs, targets = inputs[chosen], targets[chosen]
    return _LinearCrossEntropy.apply(inputs, weight, bias, targets, torch.is_grad_enabled(), dtype)


def _given_rows(tokens: Tensor) -> Tensor:
    """Return the indices of the tokens that are not -1, and of some others up to a round number.

    oneDNN compiles a kernel for each new size of a product and keeps a thousand of them, half a MiB
    each: a size for every total length of captions filled a GiB in the course of a run.

    tokens   int64 [N]
    returns  int64 [R], those of given tokens in order, then others
    """
    is_missing = tokens < 0
    n_given = len(tokens) - int(is_missing.sum())
    n_rows = -(-n_given // ROWS_TOGETHER) * ROWS_TOGETHER
    return is_missing.sort(stable=True).indices[:n_rows]


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose forward computes the gradients too, while it has the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        tokens: Tensor,
        is_differentiated: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        operands = (features, weight, bias) if is_differentiated else ()
        gradients = [torch.zeros_like(operand) for operand in operands]
        total, hits = features.new_zeros(()), tokens.new_zeros(())
        factors = weight.to(dtype)

        at_once = LOGITS_AT_ONCE if features.device.type == "cpu" else LOGITS_AT_ONCE_ON_GPUS
        n_rows = max(at_once // len(weight), 1)
        for start in range(0, len(features), n_rows):
            rows = slice(start, start + n_rows)
            is_given = (tokens[rows] >= 0)[:, None]  # [R, 1]
            targets = tokens[rows].clamp(min=0)  # [R]
            inputs = features[rows].masked_fill(~is_given, 0)  # [R, D]

            logits = F.linear(inputs, weight, bias)  # [R, V]
            at_target = logits.gather(1, targets[:, None])  # [R, 1]
            largest, likeliest = logits.max(dim=1, keepdim=True)  # [R, 1] each

            probs = torch.softmax(logits, dim=1, out=logits)  # [R, V], which overwrites the logits

            # unlike that of the target, the probability of the likeliest token never underflows
            log_probs = at_target - largest + probs.gather(1, likeliest).log()  # [R, 1]
            total -= log_probs.masked_fill_(~is_given, 0).sum()
            hits += (likeliest.squeeze(1) == tokens[rows]).sum()

            if is_differentiated:
                by_features, by_weight, by_bias = gradients

                # in fp32, since near certainty next to nothing is left of p - 1
                by_logits = probs.scatter_add_(1, targets[:, None], -torch.ones_like(at_target))
                by_bias += (is_given.to(bias.dtype).T @ by_logits).squeeze(0)
                by_logits = by_logits.to(dtype)
                by_features[rows] = (by_logits @ factors) * is_given
                by_weight += by_logits.T @ inputs.to(dtype)

        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        by_features, by_weight, by_bias = (saved * gradient for saved in ctx.saved_tensors)
        return by_features, by_weight, by_bias, None, None, None


def text_image_cross_entropy(
    text_logits: Tensor,
    image_logits: Tensor,
    text_tokens: Tensor,
    image_tokens: Tensor,
    text_weight: float = 1 / 8,
) -> Tensor:
    """Weigh the mean over text tokens against the mean over image tokens, 1 to 7 (section 2.2).

    text_logits   [B, T, Vt]    image_logits  [B, I, Vi]
    text_tokens   int64 [B, T]  image_tokens  int64 [B, I]; -1 where there is nothing to predict
    """
    text = token_cross_entropy(text_logits, text_tokens)
    image = token_cross_entropy(image_logits, image_tokens)
    return weigh(text, image, text_weight)


def contrastive_loss(logits_per_image: Tensor) -> Tensor:
    """Compute the mean cross-entropy of finding the caption of each image, and vice versa.

    logits_per_image  [B, B], scaled cosines, pairs on the diagonal (Radford et al. 2021, figure 3)
    """
    pairs = torch.arange(len(logits_per_image), device=logits_per_image.device)
    logits = logits_per_image.float()
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def weigh(text: Loss, image: Loss, text_weight: float) -> Loss:
    """Mix the losses of the two modalities, in nats per token of each."""
    return text_weight * text + (1 - text_weight) * image
