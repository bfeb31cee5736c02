"""Measures how wrong a trained diffusion prior is at each step, for the variances it samples with.

Bao et al. 2022: the optimal variance of a step is the posterior's plus what the prior's uncertainty
of the clean embedding adds, which for a network that predicts it is its mean squared error.
"""

from typing import Any

import torch
from torch import Tensor

from dalle_cli.config import PriorModelTable
from dalle_cli.data.preprocessing import Preprocessing
from dalle_cli.loading import load_prior
from dalle_cli.loading.prior_variances import PriorVariances, read_variances, weights_checksum
from dalle_cli.models.diffusion.noise_schedules import noise_schedule, strided_steps
from dalle_cli.models.unclip.diffusion_prior import DiffusionPrior, prior_loss
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.training.run import TrainingRun
from dalle_cli.training.tasks.noise import normal_noise
from dalle_cli.training.tasks.unclip.clip_pairs import ClipPairs, PairEncoder
from dalle_cli.training.tasks.unclip.prior import SAMPLING_STEPS
from dalle_cli.training.tasks.unclip.spread_batches import spread_batches

MOST_MEASURED = 1024  # pairs


def measure_variances(
    run: TrainingRun[Any],
    model: PriorModelTable,
    *,
    preprocess: Preprocessing,
    encode: PairEncoder,
) -> None:
    """Measure the weights in the run's `model/` and write `variances.json`, unless it is there.

    In the main process. Raises DalleError where an earlier file is damaged.
    """
    if read_variances(run.folder) is not None:
        return
    prior = load_prior(run.folder.root).to(run.world.device)
    apply_precision(prior, run.precision, run.world.device)
    n_steps, seed = model.diffusion.n_steps, run.recipe.training.seed
    steps = strided_steps(n_steps, [min(SAMPLING_STEPS, n_steps)])

    errors, mean = torch.zeros(len(steps)), torch.zeros(model.d_embed)
    n_samples = 0
    for read in spread_batches(run, preprocess, most=MOST_MEASURED):
        for batch in read.micro_batches(0, run.world.device):
            pairs, positions = encode(batch), batch.positions
            errors += _errors(prior, model, pairs, steps=steps, positions=positions, seed=seed)
            mean += prior.target(pairs.images).sum(dim=0).cpu()
            n_samples += len(positions)

    scale = model.embedding_rms**2
    mean_square = float((mean / n_samples).square().mean())
    PriorVariances(
        weights=weights_checksum(run.folder),
        n_samples=n_samples,
        steps=steps,
        clean_variance=(errors.double() * (scale / n_samples)).tolist(),
        data_variance=max(scale - mean_square, 0.0),
    ).write(run.folder)


@torch.no_grad()
def _errors(
    prior: DiffusionPrior,
    model: PriorModelTable,
    pairs: ClipPairs,
    *,
    steps: list[int],
    positions: list[int],
    seed: int,
) -> Tensor:
    """Sum the relative squared errors of a batch at each step, on the CPU: [N]."""
    schedule = noise_schedule(model.diffusion.schedule, model.diffusion.n_steps)
    none = torch.zeros(len(positions), dtype=torch.bool, device=pairs.images.device)
    shape, device = (pairs.images.shape[1],), pairs.images.device
    sums = []
    for step in steps:
        noise = normal_noise(
            seed, positions, purpose=f"variance {step}", shape=shape, device=device
        )
        losses = prior_loss(
            prior,
            schedule,
            pairs.images,
            captions=pairs.captions,
            text_embeddings=pairs.texts,
            is_dropped=none,
            noise=noise,
            index=torch.full((len(positions),), step, device="cpu"),
        )
        sums.append(losses.sum().cpu())
    return torch.stack(sums)
