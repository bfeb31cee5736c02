"""A step that is compiled against the same step as it is."""

from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from dalle_cli.generation.cached_transformer import CachedTransformer
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.compilation import _CUDAGraphStep, compile_step, has_compiler

CPU = torch.device("cpu")


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(
        11, 13, 5, 4, n_layers=3, d_model=32, n_heads=2, kernel_size=3
    ).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(CPU), reason="no C++ compiler")
@pytest.mark.filterwarnings(
    "ignore:TypedStorage", "ignore:.*torch.jit:DeprecationWarning"
)  # torch's own
@pytest.mark.parametrize("n_rows", [2, 6])
@torch.inference_mode()
def test_a_compiled_decoder_equals_the_whole_at_every_position(
    model: Transformer, n_rows: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    text, image = (
        torch.randint(11, (n_rows, n), generator=generator)
        for n in (model.text_len, model.image_len)
    )
    text[:, -1] = -1
    decoder = CachedTransformer(model, is_packed=False)
    step = compile_step(decoder, compiled_batch_size=n_rows)
    cache = decoder.new_cache(n_rows, n_rows)
    decoder.prefill(text, image[0, :0], cache)
    before = [torch.zeros_like(image[:, 0]), *image.unbind(1)]
    positions = torch.arange(model.image_len)
    found = torch.stack(
        [step(before[p], positions[p : p + 1], cache) for p in range(model.image_len)], dim=1
    )
    torch.testing.assert_close(found, model(text, image)[1], rtol=1e-5, atol=1e-5)


def test_step_elsewhere_than_on_a_cpu_is_compiled_with_other_options() -> None:
    """The path that CUDA takes, on the meta device: nothing compiles before the first call."""
    step = nn.Linear(2, 2, device="meta")
    assert compile_step(step, compiled_batch_size=4) is not step
    assert compile_step(step) is step


def test_replay_of_a_captured_step_reads_the_arguments_of_its_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With nothing in place of CUDA: the result is a view of what the graph reads."""
    nothing = MagicMock()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    step = _CUDAGraphStep(lambda x, state: x.view_as(x))
    state: list[torch.Tensor] = []
    assert step(torch.tensor([1.0]), state).item() == 1
    assert step(torch.tensor([2.0]), state).item() == 2
    assert nothing().replay.call_count == 2


def test_capture_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the next call would replay a graph that is not there, or one over freed memory."""
    nothing = MagicMock()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    runs: list[torch.Tensor] = []

    def run(x: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
        runs.append(x)
        if len(runs) == 1:
            raise RuntimeError("out of memory")
        return x.view_as(x)

    step, state = _CUDAGraphStep(run), []
    with pytest.raises(RuntimeError, match="out of memory"):
        step(torch.tensor([1.0]), state)
    assert step(torch.tensor([2.0]), state).item() == 2


def test_capture_bears_what_other_threads_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that writes the pictures of the batch before."""
    nothing = MagicMock()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    _CUDAGraphStep(lambda x, state: x)(torch.tensor([1.0]), [])
    modes = [call.kwargs["capture_error_mode"] for call in nothing.call_args_list if call.kwargs]
    assert modes == ["thread_local"]
