"""The forward process, its posterior and both predictions, against specified values."""

import pytest
import torch

from dalle_cli.models.diffusion.noise_schedules import noise_schedule
from dalle_cli.models.diffusion.noising import (
    add_noise,
    clean_from_noise,
    noise_from_clean,
    posterior_mean,
)

AT_500 = {"noisy": -0.5042341433, "mean": -0.4997086874, "deviation": 0.0560892603}
AMPLIFIED = {  # by how much an error in the noise grows in the clean sample
    ("cosine", 500): "1.0155506",
    ("cosine", 750): "2.4462792",
    ("cosine", 900): "6.4299283",
    ("cosine", 990): "71.29",
    ("cosine", 998): "641.7",
    ("cosine", 999): "20291",
    ("linear", 999): "157.4",
}
PARTS = {  # of the clean sample in a noisy one, and of the noise
    ("cosine", 0): ("0.99997936", "0.00642528"),
    ("cosine", 1): ("0.99995629", "0.00935008"),
    ("cosine", 10): ("0.99963939", "0.02685323"),
    ("cosine", 100): ("0.98568539", "0.16859513"),
    ("cosine", 250): ("0.91972169", "0.39257103"),
    ("cosine", 500): ("0.70163037", "0.71254111"),
    ("cosine", 750): ("0.37838954", "0.92564645"),
    ("cosine", 900): ("0.15367534", "0.98812139"),
    ("cosine", 990): ("0.01402560", "0.99990164"),
    ("cosine", 998): ("0.00155845", "0.99999879"),
    ("cosine", 999): ("0.00004928", "1.00000000"),
    ("linear", 0): (None, "0.01000000"),
    ("linear", 1): (None, "0.01482929"),
    ("linear", 100): (None, "0.32381848"),
    ("linear", 250): (None, "0.69179258"),
    ("linear", 500): (None, "0.96031419"),
    ("linear", 750): (None, "0.99834856"),
    ("linear", 999): (None, "0.99997982"),
}


def test_forward_process_and_posterior_match_the_specified_values() -> None:
    schedule = noise_schedule("cosine", 1000)
    clean, noise = torch.tensor([[[0.5]], [[-1.2]]], dtype=torch.float64)
    noisy = add_noise(schedule, clean, noise=noise, index=500)
    mean = posterior_mean(schedule, clean, noisy=noisy, index=500)
    assert float(noisy) == pytest.approx(AT_500["noisy"], abs=5e-11)
    assert float(mean) == pytest.approx(AT_500["mean"], abs=5e-11)
    deviation = schedule.posterior_variance[500].sqrt()
    assert float(deviation) == pytest.approx(AT_500["deviation"], abs=5e-11)


@pytest.mark.parametrize(("kind", "index"), AMPLIFIED)
def test_errors_in_the_noise_grow_as_specified(kind, index: int) -> None:
    schedule, zero = noise_schedule(kind, 1000), torch.zeros(1, 1, dtype=torch.float64)
    grown = clean_from_noise(schedule, zero - 1, noisy=zero, index=index)
    printed = AMPLIFIED[kind, index]
    assert f"{float(grown):.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize(("kind", "index"), PARTS)
def test_samples_consist_of_the_specified_parts(kind, index: int) -> None:
    schedule, (zero, one) = noise_schedule(kind, 1000), torch.tensor([[[0.0]], [[1.0]]]).double()
    of_clean, of_noise = (
        float(add_noise(schedule, clean, noise=noise, index=index))
        for clean, noise in ((one, zero), (zero, one))
    )
    found = (f"{of_clean:.8f}", f"{of_noise:.8f}")
    for part, printed in zip(found, PARTS[kind, index], strict=True):
        assert printed is None or part == printed


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_noise_and_clean_samples_follow_from_each_other(kind) -> None:
    schedule = noise_schedule(kind, 1000)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 6, 3, 4, 4, generator=generator, dtype=torch.float64)
    index = torch.tensor([0, 1, 250, 500, 900, 999])
    noisy = add_noise(schedule, clean, noise=noise, index=index)
    torch.testing.assert_close(
        clean_from_noise(schedule, noise, noisy=noisy, index=index), clean, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        noise_from_clean(schedule, clean, noisy=noisy, index=index), noise, rtol=1e-9, atol=1e-9
    )


def test_one_index_and_an_index_for_each_sample_agree() -> None:
    schedule = noise_schedule("cosine", 100)
    clean, noise = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    each = add_noise(schedule, clean, noise=noise, index=torch.tensor([40, 7, 40]))
    torch.testing.assert_close(each[0], add_noise(schedule, clean, noise=noise, index=40)[0])
    torch.testing.assert_close(each[1], add_noise(schedule, clean, noise=noise, index=7)[1])


def test_fp32_is_within_1e_5_of_float64() -> None:
    schedule = noise_schedule("cosine", 1000)
    clean, noise = torch.randn(2, 1000, 2, generator=torch.Generator().manual_seed(2))
    index = torch.arange(1000)
    found = add_noise(schedule, clean, noise=noise, index=index)
    exact = add_noise(schedule, clean.double(), noise=noise.double(), index=index)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    mean = posterior_mean(schedule, clean, noisy=found, index=index)
    exact = posterior_mean(schedule, clean.double(), noisy=exact, index=index)
    torch.testing.assert_close(mean.double(), exact, rtol=1e-5, atol=1e-5)
