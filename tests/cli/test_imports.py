"""What a command imports: nothing that takes a second and is not used."""

import subprocess
import sys
from pathlib import Path

import pytest

# torch's compiler and its algebra, sharding, exporters, and what only training or pages need
UNUSED = [
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.onnx",
    "sympy",
    "deepspeed",
    "transformers",
    "onnx",
    "pyarrow",
    "dalle_cli.training",
    "dalle_cli.evaluation",
    "dalle_cli.serving",
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["generate", "shapes", "a small red circle", "-n", "1", "--out", "pictures"], []),
        (["doctor", "shapes"], ["dalle_cli.training"]),
        (["info", "dvae/tiny"], ["dalle_cli.training"]),
    ],
    ids=["generate", "doctor", "info"],
)
def test_commands_import_no_compiler(words: list[str], needed: list[str], tmp_path: Path) -> None:
    script = (
        f"import sys\nfrom dalle_cli.cli.main import main\nsys.argv = ['dalle', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
        f"print('imported:', *(name for name in {UNUSED!r} if name in sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1].split()[1:] == needed
