"""bf16 where it belongs and nowhere else; fp32 untouched."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.losses import text_image_cross_entropy
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.devices import (
    choose_device,
    driver_version,
    explain_out_of_memory,
    open_device,
    use_fast_fp32_matmul,
    why_no_gpu,
)
from dalle_cli.runtime.precision import apply_precision, choose_precision, precision_words

CPU = torch.device("cpu")
T, W, V_TEXT, V_IMAGE = 5, 3, 11, 13
HALF_A_BIT = 2**-9  # relative rounding error of bf16


@pytest.fixture(autouse=True)
def restored_matmul_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def transformer(precision: str) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(V_TEXT, V_IMAGE, T, W, n_layers=3, d_model=32, n_heads=2, kernel_size=3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    apply_precision(model, precision, CPU)
    return model


def dvae(precision: str) -> DiscreteVAE:
    torch.manual_seed(0)
    model = DiscreteVAE(16, 12, n_hidden=16, n_init=8, n_groups=3, blocks_per_group=1)
    apply_precision(model, precision, CPU)
    return model


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    text = torch.randint(V_TEXT, (2, T), generator=generator)
    text[:, T - 1 :] = text[1, 2:] = -1
    return text, torch.randint(V_IMAGE, (2, W * W), generator=generator)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).detach().norm() / exact.detach().norm())


def output_dtypes(modules: dict[str, nn.Module]) -> dict[str, torch.dtype]:
    """Note, from now on, in what each module hands back its result."""
    found: dict[str, torch.dtype] = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output.dtype})
        )
    return found


def test_transformer_under_bf16_is_near_fp32_but_not_equal(tokens: tuple[Tensor, Tensor]) -> None:
    for found, exact in zip(
        transformer("bf16")(*tokens), transformer("fp32")(*tokens), strict=True
    ):
        assert found.dtype == torch.float32
        assert HALF_A_BIT / 50 < relative_error(found, exact) < 20 * HALF_A_BIT


def test_dvae_under_bf16_is_near_fp32_but_not_equal(images: Tensor) -> None:
    rough, exact = dvae("bf16"), dvae("fp32")
    relaxed = exact.codebook_logits(images).softmax(dim=1).detach()
    pairs = [(rough.codebook_logits(images), exact.codebook_logits(images))]
    pairs += zip(rough.decode_soft(relaxed), exact.decode_soft(relaxed), strict=True)
    for found, expected in pairs:
        assert found.dtype == torch.float32
        assert HALF_A_BIT / 50 < relative_error(found, expected) < 20 * HALF_A_BIT


def test_transformer_multiplies_in_bf16_inside_branches_alone(
    tokens: tuple[Tensor, Tensor],
) -> None:
    model = transformer("bf16")
    blocks = {f"block {i}": block for i, block in enumerate(model.blocks)}
    outside = {
        **blocks,
        "norm": model.final_norm,
        "text": model.text_head,
        "image": model.image_head,
    }
    inside = {}
    for i, block in enumerate(model.blocks):
        for name in ("query", "key", "value", "output"):
            inside[f"{i} {name}"] = getattr(block.attention.attention, name)
        inside |= {f"{i} expand": block.mlp.expand, f"{i} contract": block.mlp.contract}
    stream, products = output_dtypes(outside), output_dtypes(inside)
    model(*tokens)
    assert len(stream) == len(outside) and set(stream.values()) == {torch.float32}
    assert len(products) == len(inside) and set(products.values()) == {torch.bfloat16}


def test_dvae_multiplies_in_bf16_but_next_to_the_relaxation(images: Tensor) -> None:
    model = dvae("bf16")
    convolutions = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    }
    next_to_it = {"encoder.output", "decoder.input"}
    dtypes = output_dtypes(convolutions)
    model.decode_soft(model.codebook_logits(images).softmax(dim=1))
    assert next_to_it < set(dtypes) == set(convolutions)
    assert {dtypes[name] for name in next_to_it} == {torch.float32}
    in_branches = {dtype for name, dtype in dtypes.items() if "res_path" in name}
    assert in_branches == {torch.bfloat16}


@pytest.mark.parametrize("model", [transformer, dvae])
def test_parameters_stay_fp32(model: Callable[[str], nn.Module]) -> None:
    assert {parameter.dtype for parameter in model("bf16").parameters()} == {torch.float32}


def test_gradients_under_bf16_are_fp32_and_near(tokens: tuple[Tensor, Tensor]) -> None:
    rough, exact = transformer("bf16"), transformer("fp32")
    for model in (rough, exact):
        text, image = tokens
        loss = text_image_cross_entropy(*model(text, image), text_tokens=text, image_tokens=image)
        loss.backward()
    gradients = [
        torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (rough, exact)
    ]
    assert {p.grad.dtype for p in rough.parameters()} == {torch.float32}
    assert HALF_A_BIT / 50 < relative_error(*gradients) < 20 * HALF_A_BIT


@torch.no_grad()
def test_autocast_ends_with_the_branch(tokens: tuple[Tensor, Tensor]) -> None:
    transformer("bf16")(*tokens)
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@torch.no_grad()
def test_fp32_is_left_untouched(tokens: tuple[Tensor, Tensor]) -> None:
    plain = transformer("fp32")
    before = [set(vars(module)) for module in plain.modules()]
    expected = plain(*tokens)
    apply_precision(plain, "fp32", CPU)
    assert [set(vars(module)) for module in plain.modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(plain(*tokens), expected, strict=True))


@pytest.mark.parametrize("choice", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_an_explicit_precision_is_taken_on_any_device(choice: str, device: str) -> None:
    assert choose_precision(choice, torch.device(device)) == choice


def test_an_explicit_device_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_apples_gpus_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="mps is not supported"):
        choose_device("mps")


@pytest.mark.parametrize(
    ("cuda", "remedy"), [(None, "pytorch.org/get-started"), ("13.0", "nvidia-smi")]
)
def test_gpu_that_is_not_there_is_told_with_what_helps(
    cuda: str | None, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert remedy in (why_no_gpu() or "")
    with pytest.raises(DalleError, match="no such device on this machine: cuda") as told:
        choose_device("cuda")
    assert told.value.hint == why_no_gpu()


def test_driver_is_told_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_version() is None
    command = tmp_path / "nvidia-smi"
    for text, version in (("echo 580.95.05; echo 580.95.05", "580.95.05"), ("exit 9", None)):
        command.write_text(f"#!/bin/sh\n{text}\n")
        command.chmod(0o755)
        assert driver_version() == version


def test_the_device_chosen_by_itself_can_compute() -> None:
    assert float(torch.ones(2, device=choose_device("auto")).sum()) == 2


def test_the_fast_route_is_taken_only_where_it_is_still_fp32() -> None:
    is_taken = use_fast_fp32_matmul()
    assert torch.get_float32_matmul_precision() == ("medium" if is_taken else "highest")
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(3))
    assert relative_error((a @ b).double(), a.double() @ b.double()) < 1e-6


@pytest.mark.thorough
def test_a_cpu_spends_no_time_on_denormal_numbers_in_any_thread() -> None:
    """In a process of its own, since threads that are there already would go on with them."""
    code = (
        "import torch; from dalle_cli.runtime.devices import open_device; torch.set_num_threads(2);"
        "open_device('cpu', 'fp32'); print(int((torch.full((2**20,), 1e-39) * 1).count_nonzero()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_convolutions_of_a_gpu_compute_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert open_device("cuda", "fp32") == (torch.device("cuda"), "fp32")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 256 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
        RuntimeError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'"),
    ],
    ids=str,
)
def test_memory_that_is_short_is_told_whoever_wanted_it(error: RuntimeError) -> None:
    with pytest.raises(DalleError, match=r"^out of memory: ") as caught, explain_out_of_memory():
        raise error
    assert "\n" not in caught.value.message and "runtime.micro_batch_size" in caught.value.hint


def test_kernel_that_is_too_large_for_a_gpu_is_told_with_what_helps() -> None:
    class OutOfResources(Exception):
        """Triton's, which is no RuntimeError."""

    message = "out of resource: shared memory, Required: 180224, Hardware limit: 101376."
    with pytest.raises(DalleError, match="more shared memory") as caught, explain_out_of_memory():
        raise OutOfResources(message)
    assert "runtime.attention=dense" in caught.value.hint


@pytest.mark.parametrize(
    ("device", "words"), [("cuda", "bf16 (fp32 without TF32)"), ("cpu", "bf16")]
)
def test_precision_of_a_gpu_is_told_with_that_of_its_fp32(device: str, words: str) -> None:
    assert precision_words("bf16", torch.device(device)) == words


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(RuntimeError) as caught, explain_out_of_memory():
        raise error
    assert caught.value is error
