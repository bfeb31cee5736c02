"""CLIPs by name on the Hugging Face hub: from the cache or a polite error, never by network."""

import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dalle_cli.errors import DalleError
from dalle_cli.interop.hub import fetch_from_hub
from dalle_cli.loading import load_clip
from dalle_cli.models.clip import Clip, Tower

SNAPSHOT = "models--owner--tiny-clip/snapshots/0123456789abcdef0123456789abcdef01234567"
FETCH = """
import json, socket, sys

from dalle_cli.errors import DalleError
from dalle_cli.interop.hub import fetch_from_hub

calls = []
def refuse(name):
    def call(*arguments, **options):
        calls.append(name)
        raise OSError("no network in tests")
    return call
for name in ("getaddrinfo", "create_connection"):
    setattr(socket, name, refuse(name))
socket.socket.connect = refuse("connect")

for name in sys.argv[1:]:
    try:
        print(json.dumps({"folder": str(fetch_from_hub(name)), "calls": calls}))
    except DalleError as error:
        print(json.dumps({"message": error.message, "hint": error.hint, "calls": calls}))
"""


def fetch_elsewhere(*names: str, **environment: str) -> list[dict[str, object]]:
    """Fetch CLIPs by name in a new interpreter, as the library reads its environment on import."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "TRANSFORMERS_"))
    }
    program = [sys.executable, "-c", FETCH, *names]
    ended = subprocess.run(
        program, env=inherited | environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache as the library lays it out, with one CLIP of open_clip's kind in it."""
    pytest.importorskip("huggingface_hub")
    root = tmp_path_factory.mktemp("hub")
    snapshot = root / SNAPSHOT
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    torch.manual_seed(0)
    clip = Clip(12, 4, 5, 23, 9, "gelu", vision=Tower(1, 64, 1, 70), text=Tower(1, 64, 1, 70))
    save_file(clip.state_dict(), snapshot / "open_clip_model.safetensors")
    config = {"model_cfg": {"vision_cfg": {}, "text_cfg": {"heads": 1}}, "preprocess_cfg": {}}
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    return root


def test_name_of_a_cached_clip_loads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    saved = load_file(cache / SNAPSHOT / "open_clip_model.safetensors")
    torch.testing.assert_close(
        dict(load_clip("owner/tiny-clip").state_dict()), saved, rtol=0, atol=0
    )


def test_offline_a_name_is_what_the_cache_has_or_an_error_without_a_try(cache: Path) -> None:
    environment = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    cached, missing = fetch_elsewhere("owner/tiny-clip", "owner/other-clip", **environment)
    assert cached == {"folder": str(cache / SNAPSHOT), "calls": []}
    assert missing["calls"] == []
    assert str(missing["message"]).startswith(
        "owner/other-clip is neither a file here nor available from the hub: "
    )
    assert str(cache) in str(missing["hint"]) and "HF_HUB_CACHE" in str(missing["hint"])


def test_without_a_network_a_name_is_what_the_cache_has_or_an_error(cache: Path) -> None:
    cached, missing = fetch_elsewhere(
        "owner/tiny-clip", "owner/other-clip", HF_HUB_CACHE=str(cache)
    )
    assert cached["folder"] == str(cache / SNAPSHOT) and cached["calls"]
    assert str(missing["message"]).startswith(
        "owner/other-clip is neither a file here nor available from the hub: "
    )


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], set[str]]:
    """Stand in for a hub with one repository of these files; return those fetched from it."""
    library = pytest.importorskip("huggingface_hub")

    def fetch(files: list[str]) -> set[str]:
        def snapshot_download(_: str, allow_patterns: list[str]) -> str:
            for file in files:
                if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                    (tmp_path / file).touch()
            return str(tmp_path)

        monkeypatch.setattr(library, "snapshot_download", snapshot_download)
        return {file.name for file in fetch_from_hub("owner/name").iterdir()}

    return fetch


SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
BIN_SHARDS = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]


@pytest.mark.parametrize(
    "weights",
    [
        ["model.safetensors"],
        SHARDS,
        ["pytorch_model.bin"],
        BIN_SHARDS,
        ["open_clip_pytorch_model.bin"],
    ],
    ids=str,
)
def test_weights_are_fetched_in_every_form_that_is_read(
    weights: list[str], fetched: Callable
) -> None:
    assert fetched(["config.json", "flax_model.msgpack", *weights]) == {"config.json", *weights}


def test_pickles_are_fetched_only_where_there_is_nothing_else(fetched: Callable) -> None:
    names = ["open_clip_pytorch_model.bin", "pytorch_model.bin", "open_clip_model.safetensors"]
    assert fetched(names) == {"open_clip_model.safetensors"}


def test_name_of_what_holds_no_weights_is_told(fetched: Callable) -> None:
    with pytest.raises(
        DalleError, match=r"^owner/name holds no weights in a known form$"
    ) as caught:
        fetched(["config.json", "flax_model.msgpack"])
    assert "pytorch_model.bin" in caught.value.hint


@pytest.mark.parametrize(
    "reason",
    [RuntimeError("torn\nmore"), TimeoutError(), type("TransferError", (Exception,), {})("torn")],
    ids=repr,
)
def test_whatever_the_library_raises_is_one_error(
    reason: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It also lets through what the libraries below it raise, which has no class in common."""
    library = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> None:
        raise reason

    monkeypatch.setattr(library, "snapshot_download", fail)
    with pytest.raises(
        DalleError, match=r"owner/name is neither .* from the hub: (torn|TimeoutError)$"
    ):
        fetch_from_hub("owner/name")


def test_without_the_library_the_hint_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DalleError, match="no such file or folder: owner/name") as caught:
        load_clip("owner/name")
    assert "`pip install huggingface_hub`" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["clip", "clip.pt", "runs/birds/clip.pt", "/no/such/clip", "a b/c", "", "owner/\x1b[2J"]
)
def test_what_is_no_hubs_name_is_no_clip(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # it is not even asked for
    with pytest.raises(DalleError, match=r"no such CLIP|holds no CLIP") as caught:
        load_clip(name)
    assert "\x1b" not in caught.value.message
