"""A full disk, command by command: which file is named, what is left, and that room is enough."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import released_dvae
from emoji_files import write_annotations, write_font
from small_disk import small_disk

CPU = ["--device", "cpu", "--precision", "fp32"]
SHARES = (0.0, 0.5, 0.97)  # of the bytes that a command needs
FULL = re.compile(
    r"error: cannot (?:write|make the folder) (?P<file>\S+): No space left on device\n"
    r"hint: \S+ needs (?:at least )?[\d.,]+ (?:bytes|[KMG]iB), and [\d.,]+ (?:bytes|[KMG]iB) are"
)


@dataclass(frozen=True)
class Inputs:
    """What commands read."""

    pairs: Path
    dvae: Path
    transformer: Path
    clip: Path
    decoder: Path
    toy: Path
    root: Path

    def released(self) -> Path:
        """Return the file of a public encoder."""
        path = self.root / "encoder.pkl"
        return (
            path
            if path.exists()
            else released_dvae.pickle_module(
                released_dvae.Encoder(n_hid=8).requires_grad_(False), path
            )
        )

    def emoji(self) -> list[object]:
        """Return the words that name a font and annotations."""
        own = self.root / "own"
        own.mkdir(exist_ok=True)
        font = own / "emoji.ttf"
        if not font.exists():
            write_font(font)
            write_annotations(own / "common")
        return ["--font", font, "--annotations", own / "common"]

    def training(self, kind: str) -> list[object]:
        """Return the words of a short training."""
        settings = ["training.steps=3", "runtime.save_every=1", "runtime.workers=0"]
        more = ["--dvae", self.dvae] if kind == "transformer" else []
        sets = [word for setting in settings for word in ("--set", setting)]
        command = [f"train-{kind}", f"{kind}/tiny", "--data", self.pairs, *more, *sets]
        return [*command, "--device", "cpu", "--run"]


WHOLE = {  # commands whose folder appears whole, and their words before it
    "export": lambda i: ["export", i.transformer, "--clip", i.clip, "--out"],
    "export --half": lambda i: ["export", i.toy, "--half", "--out"],
    "reconstruct": lambda i: ["reconstruct", i.dvae, i.pairs, *CPU, "--out"],
    "vary": lambda i: ["vary", i.decoder, i.pairs, "-n", 1, "--steps", 3, *CPU, "--out"],
    "data shapes": lambda i: ["data", "shapes", "--pictures", 20, "--size", 32],
    "data emoji": lambda i: ["data", "emoji", *i.emoji()],
    "import dvae": lambda i: ["import", "dvae", i.released(), "--run"],
}
RESUMED = {  # commands that go on where they stopped
    "generate": lambda i: ["generate", i.transformer, "a ring", "-n", 3, *CPU, "--out"],
    "rerank": lambda i: ["rerank", i.pairs, "a ring", "--clip", i.clip, *CPU, "--out"],
    "data encode": lambda i: ["data", "encode", i.pairs, "--dvae", i.dvae, *CPU, "--out"],
    "info --masks": lambda i: ["info", "transformer/tiny", "--masks"],
}
TRAINING = {
    f"train-{kind}": lambda i, kind=kind: i.training(kind)
    for kind in ("dvae", "transformer", "clip")
}
COMMANDS = WHOLE | RESUMED | TRAINING


@pytest.fixture
def inputs(
    pairs: Path,
    dvae_run: Path,
    transformer_run: Path,
    clip_run: Path,
    decoder_run: Path,
    toy: Path,
    tmp_path: Path,
) -> Inputs:
    return Inputs(pairs, dvae_run, transformer_run, clip_run, decoder_run, toy, tmp_path)


def content_of(folder: Path) -> dict[str, bytes]:
    """Read the files that do not tell the time or the folder."""
    told = ("metrics.jsonl", "seconds.json", "recipe.json", "state.json", "manifest.json")
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in told]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.thorough
@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk_names_the_file_and_room_is_enough_to_go_on(
    command: str, inputs: Inputs, tmp_path: Path, dalle: Callable
) -> None:
    words = COMMANDS[command](inputs)
    (tmp_path / "small").mkdir()
    out = tmp_path / "small" / "out"
    with small_disk(tmp_path / "large") as large:
        whole = dalle(*words, tmp_path / "large" / "out")
    assert whole.code == 0, whole.err
    expected = content_of(tmp_path / "large" / "out")

    for share in SHARES[1:2] if command in TRAINING else SHARES:
        with small_disk(tmp_path / "small", int(share * large.peak)) as disk:
            stopped = dalle(*words, out)
        assert stopped.code == 1 and stopped.out == "", stopped.err
        told = FULL.search(stopped.err)
        assert told is not None, stopped.err
        assert Path(told["file"]).is_relative_to(out) and disk.peak <= share * large.peak
        assert not list(disk.folder.rglob(".*")), "what was written aside is removed"
        if command in WHOLE:
            assert not out.exists()

    ended = dalle(*words, out)
    assert ended.code == 0, ended.err
    assert content_of(out) == expected
