"""Guidance away from predictions without conditions."""

import torch
from torch import Tensor

from dalle_cli.models.diffusion.guided_net import GuidedNet, guide
from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.models.diffusion.noising import clean_from_noise


def test_noise_is_guided_and_variances_are_the_conditional_ones() -> None:
    conditional = torch.tensor([[1.0, 2.0, 7.0, 8.0]])
    null = torch.tensor([[0.5, 3.0, -1.0, -2.0]])
    found = guide(conditional, null, guidance=3.0, n_guided=2)
    assert found.tolist() == [[2.0, 0.0, 7.0, 8.0]]


def test_guidance_of_one_and_zero_are_either_prediction() -> None:
    conditional, null = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guide(conditional, null, guidance=1.0, n_guided=4), conditional)
    torch.testing.assert_close(guide(conditional, null, guidance=0.0, n_guided=4), null)


def test_guiding_the_noise_is_guiding_the_clean_sample() -> None:
    schedule = noise_schedule("cosine", 1000)
    noisy, conditional, null = torch.randn(
        3, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )

    def clean(noise: Tensor) -> Tensor:
        return clean_from_noise(schedule, noise, noisy=noisy, index=700)

    by_noise = clean(guide(conditional, null, guidance=4.0, n_guided=2))
    by_clean = guide(clean(conditional), clean(null), guidance=4.0, n_guided=2)
    torch.testing.assert_close(by_noise, by_clean)


def test_guided_network_asks_for_both_predictions_at_once() -> None:
    asked = []

    def net(noisy: Tensor, timesteps: Tensor) -> Tensor:
        asked.append((noisy.clone(), timesteps.clone()))
        shift = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None]
        return torch.cat([noisy + shift, shift], dim=1)

    noisy, timesteps = torch.tensor([[0.5], [-2.0]]), torch.tensor([9, 9])
    found = GuidedNet(net, 2.0)(noisy, timesteps)
    ((rows, steps),) = asked
    assert rows.flatten().tolist() == [0.5, -2.0, 0.5, -2.0] and steps.tolist() == [9] * 4
    assert found.tolist() == [[2.5, 1.0], [0.0, 1.0]]
