"""The average of the weights against a plain loop, in the module's place, and off the GPU."""

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.config import EmaTable
from dalle_cli.training.optimization.ema import Ema, ema_device


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def change(module: nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_average_matches_a_plain_loop(decay: float) -> None:
    module, generator = layer(), torch.Generator().manual_seed(1)
    ema = Ema(dict(module.named_parameters()), EmaTable(decay=decay, every=1))
    expected = {name: weight.double() for name, weight in weights_of(module).items()}
    for n in range(40):
        change(module, generator)
        ema.update()
        in_force = min(decay, (1 + n) / (10 + n)) if n else 0.0
        for name, weight in weights_of(module).items():
            expected[name] = in_force * expected[name] + (1 - in_force) * weight
    for name, weight in ema.weights.items():
        torch.testing.assert_close(weight, expected[name].float(), rtol=1e-5, atol=1e-6)
    assert ema.n_updates == 40


def test_first_update_copies() -> None:
    module = layer()
    ema = Ema(dict(module.named_parameters()), EmaTable(decay=0.999, every=1))
    change(module, torch.Generator().manual_seed(1))
    ema.update()
    assert all(
        torch.equal(ema.weights[name], weight) for name, weight in weights_of(module).items()
    )


def test_average_keeps_a_memory_of_its_own() -> None:
    module = layer()
    before = weights_of(module)
    ema = Ema(dict(module.named_parameters()), EmaTable(decay=0.9, every=1))
    change(module, torch.Generator().manual_seed(1))
    assert all(torch.equal(ema.weights[name], weight) for name, weight in before.items())


def averaged() -> tuple[nn.Linear, Ema]:
    module, generator = layer(), torch.Generator().manual_seed(1)
    ema = Ema(dict(module.named_parameters()), EmaTable(decay=0.9, every=1))
    for _ in range(3):
        change(module, generator)
        ema.update()
    return module, ema


def test_module_computes_with_the_average_while_it_is_swapped_in_and_not_after() -> None:
    module, ema = averaged()
    trained, x = weights_of(module), torch.ones(1, 3)
    with ema.swapped_in():
        torch.testing.assert_close(module(x), x @ ema.weights["weight"].T + ema.weights["bias"])
    assert all(torch.equal(weight, trained[name]) for name, weight in weights_of(module).items())
    torch.testing.assert_close(module(x), x @ trained["weight"].T + trained["bias"])


def test_trained_weights_come_back_after_an_exception() -> None:
    module, ema = averaged()
    trained = weights_of(module)
    with pytest.raises(KeyboardInterrupt), ema.swapped_in():
        raise KeyboardInterrupt
    assert all(torch.equal(weight, trained[name]) for name, weight in weights_of(module).items())


def test_the_optimizer_still_moves_the_modules_weights_after_a_swap() -> None:
    module, ema = averaged()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with ema.swapped_in(), torch.no_grad():
        module(torch.ones(1, 3))
    average, trained = (
        {name: weight.clone() for name, weight in ema.weights.items()},
        weights_of(module),
    )
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(module.bias.detach(), trained["bias"] - 0.1)
    assert all(torch.equal(ema.weights[name], weight) for name, weight in average.items())


@pytest.mark.parametrize(
    ("device", "every", "place"), [("cuda", 25, "cpu"), ("cuda", 1, None), ("cpu", 25, None)]
)
def test_average_that_rarely_moves_leaves_the_gpu(
    device: str, every: int, place: str | None
) -> None:
    chosen = ema_device(EmaTable(decay=0.99, every=every), torch.device(device))
    assert chosen == (place and torch.device(place))


@pytest.mark.parametrize("every", [1, 3, 25])
def test_average_elsewhere_is_the_one_beside_the_weights_to_the_bit(every: int) -> None:
    table, pairs = EmaTable(decay=0.9, every=every), []
    for place in (None, torch.device("cpu")):
        module, generator = layer(), torch.Generator().manual_seed(1)
        ema = Ema(dict(module.named_parameters()), table, place)
        for n_applied in range(1, 60):
            change(module, generator)
            ema.follow(n_applied)
        pairs.append(ema)
    beside, elsewhere = pairs
    assert elsewhere.n_updates == beside.n_updates == 59 // every
    torch.testing.assert_close(elsewhere.weights, beside.weights, rtol=0, atol=0)


def test_average_elsewhere_is_of_the_weights_at_the_time_it_was_due() -> None:
    module, generator = layer(), torch.Generator().manual_seed(1)
    ema = Ema(dict(module.named_parameters()), EmaTable(decay=0.9, every=1), torch.device("cpu"))
    change(module, generator)
    ema.update()
    due = weights_of(module)
    change(module, generator)  # before anyone has asked for the average
    torch.testing.assert_close(ema.weights, due, rtol=0, atol=0)
