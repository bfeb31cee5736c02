"""Mistakes of users: one clear message, the right exit code, and nothing of theirs touched."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dalle_cli.storage.integrity.checksums import checksummed_json

TINY = ["--set", "training.steps=1", "--set", "runtime.workers=0"]


@dataclass(frozen=True)
class Place:
    """A folder with everything that can be misused."""

    root: Path
    pairs: Path
    dvae: Path
    transformer: Path
    clip: Path

    def file(self, name: str, content: str | bytes = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def folder(self, name: str, n_pairs: int = 0, captions: bool = True) -> Path:
        for picture in sorted(self.pairs.glob("*.png"))[:n_pairs]:
            self.file(f"{name}/{picture.name}", picture.read_bytes())
            if captions:
                self.file(f"{name}/{picture.stem}.txt", picture.with_suffix(".txt").read_bytes())
        (self.root / name).mkdir(exist_ok=True)
        return self.root / name

    def broken(self) -> Path:
        for i in range(3):
            self.file(f"broken/{i}.png", f"not a picture {i}")
        return self.root / "broken"

    def train_dvae(
        self, *words: object, recipe: object = "dvae/tiny", data: object = None
    ) -> list[object]:
        return [
            "train-dvae",
            recipe,
            "--data",
            data or self.pairs,
            "--run",
            self.root / "run",
            *TINY,
            *words,
        ]

    def train_transformer(
        self,
        *words: object,
        recipe: object = "transformer/tiny",
        data: object = None,
        dvae: object = None,
    ) -> list[object]:
        given = [
            "--data",
            data or self.pairs,
            "--dvae",
            dvae or self.dvae,
            "--run",
            self.root / "run",
        ]
        return ["train-transformer", recipe, *given, *TINY, *words]

    def train_clip(self, *words: object) -> list[object]:
        return [
            "train-clip",
            "clip/tiny",
            "--data",
            self.pairs,
            "--run",
            self.root / "run",
            *TINY,
            *words,
        ]

    def train_with_zero(self, deepspeed: str, *words: object) -> list[object]:
        return self.train_transformer("--deepspeed", self.file("ds.json", deepspeed), *words)

    def generate(self, *words: object, run: object = None) -> list[object]:
        return ["generate", run or self.transformer, "-n", 1, "--out", self.root / "out", *words]

    def begin(self, *words: object) -> list[object]:
        """Draw from a picture."""
        return self.generate("a ring", "--image", self.pairs / "000.png", *words)

    def rerank(
        self, *words: object, pictures: object = None, clip: object = None, out: object = None
    ) -> list[object]:
        given = ["--clip", clip or self.clip, "--out", out or self.root / "out"]
        return ["rerank", pictures or self.pairs, *given, *words]


@pytest.fixture
def place(
    tmp_path: Path, pairs: Path, own_dvae_run: Path, own_transformer_run: Path, clip_run: Path
) -> Place:
    return Place(tmp_path, pairs, own_dvae_run, own_transformer_run, clip_run)


def corrupt_run(place: Place) -> Path:
    """Damage every checkpoint of a run."""
    for path in (place.dvae / "checkpoints").rglob("parameters.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    return place.dvae


def small_dvae(place: Place) -> Path:
    """Change a dVAE's config alone: it is looked at before the weights fail to fit."""
    path = place.dvae / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["vocab_size"] = 32
    path.write_bytes(checksummed_json(config))
    return place.dvae


# may train in one process
OFFLOADED = '"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}'
OTHER_SETTINGS = '"train_batch_size": 64, "gradient_clipping": 1.5, "fp16": {"enabled": true}'
CONTRADICTION = f"{{{OFFLOADED}, {OTHER_SETTINGS}}}"

THREE_MISTAKES = [
    "--set",
    "training.stepps=5",
    "--set",
    "optimizer.eps=-1.0",
    "--set",
    "model.image_size=33",
]

KNOWN_FAILURES = {  # exit code 1
    "empty folder": (lambda p: p.train_dvae(data=p.folder("empty")), ["no pictures", "empty"]),
    "data that are one picture file": (
        lambda p: p.train_dvae(data=p.pairs / "000.png"), ["not a data set"],
    ),
    "no captions": (
        lambda p: p.train_transformer(data=p.folder("bare", 3, captions=False)), ["no captions"],
    ),
    "one picture": (lambda p: p.train_dvae(data=p.folder("single", 1)), ["too few", "--valid"]),
    "broken pictures alone": (lambda p: p.train_dvae(data=p.broken()), ["not one usable"]),
    "data check of broken pictures": (
        lambda p: ["data", "check", p.broken()], ["not one usable sample"],
    ),
    "dVAE with another codebook": (
        lambda p: p.train_transformer("--set", "model.image_vocab_size=128"),
        ["out of 64", "out of 128"],
    ),
    "dVAE with another grid": (
        lambda p: p.train_transformer("--set", "model.grid_size=8"), ["4x4 tokens", "8x8"],
    ),
    "dVAE with a damaged config": (
        lambda p: p.train_transformer(dvae=small_dvae(p)), ["does not hold"],
    ),
    "corrupt checkpoints": (
        lambda p: ["train-dvae", "dvae/tiny", "--data", p.pairs, "--run", corrupt_run(p),
                   "--set", "training.steps=11"],
        ["corrupt"],
    ),
    "corrupt checkpoint by name": (
        lambda p: [
            "train-dvae",
            "dvae/tiny",
            "--data",
            p.pairs,
            "--run",
            corrupt_run(p),
            "--set",
            "training.steps=11",
            "--resume",
            p.dvae / "checkpoints" / "step-00000011",
        ],
        ["corrupt checkpoint"],
    ),
    "no GPU to train on": (lambda p: p.train_dvae("--device", "cuda"), ["cuda"]),
    "job that is no JSON": (
        lambda p: [*p.generate("a ring"), "--out", p.file("begun/job.json", "{").parent],
        ["job.json is damaged"],
    ),
    "job that is no description": (
        lambda p: [*p.generate("a ring"), "--out", p.file("begun/job.json", "[]").parent],
        ["job.json is damaged"],
    ),
    "no GPU to draw with": (lambda p: p.generate("a ring", "--device", "cuda"), ["cuda"]),
    "no GPU to rebuild with": (
        lambda p: ["reconstruct", p.dvae, p.pairs, "--out", p.root / "out", "--device", "cuda"],
        ["cuda"],
    ),
    "tokenizer that is none": (
        lambda p: p.train_transformer("--tokenizer", p.file("merges.json", "{}")),
        ["is not a tokenizer file"],
    ),
    "tokenizer that is a folder": (
        lambda p: p.train_transformer("--tokenizer", p.folder("merges")),
        ["cannot read the tokenizer"],
    ),
    "folder without pictures": (
        lambda p: ["reconstruct", p.dvae, p.folder("empty"), "--out", p.root / "out"],
        ["no pictures in"],
    ),
    "run below a file": (
        lambda p: [
            "train-dvae",
            "dvae/tiny",
            "--data",
            p.pairs,
            "--run",
            p.file("file") / "run",
            *TINY,
        ],
        ["file"],
    ),
    "out below a file": (
        lambda p: [*p.generate("a ring")[:4], "--out", p.file("file") / "x", "a ring"], ["file"],
    ),
    "shapes below a file": (
        lambda p: ["data", "shapes", p.file("file") / "x", "--pictures", 2], ["file"],
    ),
    "export below a file": (lambda p: ["export", p.dvae, "--out", p.file("file") / "x"], ["file"]),
    "rebuilt below a file": (
        lambda p: ["reconstruct", p.dvae, p.pairs, "--out", p.file("file") / "x"], ["file"],
    ),
    "empty folder to rank": (
        lambda p: p.rerank("a ring", pictures=p.folder("empty")), ["no pictures in", "empty"],
    ),
    "endless name to rank": (lambda p: p.rerank("a ring", pictures="x" * 5000), ["too long"]),
    "row that names no picture": (
        lambda p: p.rerank(pictures=p.file("rows.csv", "thing,caption\na.png,a ring\n")),
        ["row 1", "`file`"],
    ),
    "row that is no text": (
        lambda p: p.rerank(pictures=p.file("rows.jsonl", b'{"file": "a", "caption": "\xff"}')),
        ["row 1", "UTF-8"],
    ),
    "CLIP that is no checkpoint": (
        lambda p: p.rerank("a ring", clip=p.file("clip.pt", "weights")), ["clip.pt"],
    ),
    "CLIP's vocabulary that is none": (
        lambda p: p.rerank("a ring", "--tokenizer", p.file("vocabulary", "{}")),
        ["is not a CLIP vocabulary"],
    ),
    "no GPU to rank with": (lambda p: p.rerank("a ring", "--device", "cuda"), ["cuda"]),
    "best below a file": (lambda p: p.rerank("a ring", out=p.file("file") / "x"), ["file"]),
    "masks into a file": (
        lambda p: ["info", "transformer/tiny", "--masks", p.file("file")], ["file"],
    ),
}  # fmt: skip

WRONG_USAGE = {  # exit code 2
    "masks of a dVAE": (
        lambda p: ["info", "dvae/tiny", "--masks", p.root / "masks"], ["no attention masks"],
    ),
    # what is named and is not there, or is something else
    "run to export that is missing": (
        lambda p: ["export", p.root / "absent", "--out", p.root / "out"],
        ["no such run", "hint: ", "(transformer)"],
    ),
    "run to rebuild with that is missing": (
        lambda p: ["reconstruct", p.root / "absent", p.pairs, "--out", p.root / "out"],
        ["no such run", "hint: ", "(dvae)"],
    ),
    "run to look at that is missing": (
        lambda p: ["info", p.root / "absent"], ["no such recipe", "hint: "],
    ),
    "folder that holds runs": (
        lambda p: p.generate("a ring", run=p.root), ["is not a run", "transformer (transformer)"],
    ),
    "checkpoint that is missing": (
        lambda p: p.generate("a ring", "--checkpoint", 7),
        ["has no checkpoint of step 7", "hint: ", "3, 6, 9, 11"],
    ),
    "checkpoint that is no step": (
        lambda p: p.generate("a ring", "--checkpoint", "newest"),
        ["--checkpoint", "must be best, last or a step: newest"],
    ),
    "checkpoint to export that is missing": (
        lambda p: ["export", p.dvae, "--out", p.root / "out", "--checkpoint", 7],
        ["has no checkpoint of step 7"],
    ),
    "data of a pattern that fits nothing": (
        lambda p: p.train_dvae(data=p.root / "*.tar"), ["no tar or parquet file matches"],
    ),
    "missing folder": (lambda p: p.train_dvae(data=p.root / "absent"), ["absent"]),
    "held-out data that are missing": (
        lambda p: p.train_dvae("--valid", p.root / "absent"), ["absent"],
    ),
    "run that is not one": (
        lambda p: p.generate("a ring", run=p.folder("nothing")), ["is not a run"],
    ),
    "run that is missing": (lambda p: p.generate("a ring", run=p.root / "absent"), ["no such run"]),
    "run that is a file": (lambda p: p.generate("a ring", run=p.file("file")), ["is not a run"]),
    "run of the other kind": (
        lambda p: p.generate("a ring", run=p.dvae), ["holds a dvae, not a transformer"],
    ),
    "dVAE that is not one": (
        lambda p: p.train_transformer(dvae=p.folder("nothing")), ["is not a run"],
    ),
    "drawing ranked by a dVAE": (
        lambda p: p.generate("a ring", "--clip", p.dvae), ["holds a dvae, not a clip"],
    ),
    "drawing ranked by a CLIP that is missing": (
        lambda p: p.generate("a ring", "--clip", p.root / "absent"), ["no such CLIP", "absent"],
    ),
    "drawing ranked with a vocabulary that is missing": (
        lambda p: p.generate("a ring", "--clip", p.clip, "--tokenizer", p.root / "absent"),
        ["absent"],
    ),
    "tokenizer that is missing": (
        lambda p: p.train_transformer("--tokenizer", p.root / "absent.json"),
        ["no such tokenizer", "absent.json"],
    ),
    "export of no run": (
        lambda p: ["export", p.folder("nothing"), "--out", p.root / "out"], ["is not a run"],
    ),
    "info of no run": (lambda p: ["info", p.folder("nothing")], ["is not a run"]),
    "picture that is missing": (
        lambda p: ["reconstruct", p.dvae, p.root / "absent.png", "--out", p.root / "out"],
        ["no such picture or folder", "absent.png", "hint: "],
    ),
    "pictures to rank that are missing": (
        lambda p: p.rerank("a ring", pictures=p.root / "absent"), ["absent"],
    ),
    "missing list to rank": (
        lambda p: p.rerank("a ring", pictures=p.root / "absent.txt"), ["cannot read", "absent"],
    ),
    "CLIP that is a dVAE": (
        lambda p: p.rerank("a ring", clip=p.dvae), ["holds a dvae, not a clip"],
    ),
    "CLIP that is missing": (
        lambda p: p.rerank("a ring", clip=p.root / "absent"), ["no such CLIP"],
    ),
    "recipe with three mistakes": (
        lambda p: p.train_dvae(*THREE_MISTAKES),
        [
            "3 problems",
            "`training.stepps`",
            "did you mean `training.steps`",
            "`optimizer.eps`",
            "33",
        ],
    ),
    "unknown recipe": (
        lambda p: p.train_dvae(recipe="dvae/tinny"), ["no such recipe", "did you mean `dvae/tiny`"],
    ),
    "recipe of the other kind": (
        lambda p: p.train_dvae(recipe="transformer/tiny"),
        ["transformer, not for dvae", "dalle train-transformer"],
    ),
    "recipe that is no TOML": (
        lambda p: p.train_dvae(recipe=p.file("mine.toml", "= 3")), ["not valid TOML"],
    ),
    "recipe of lists in lists in lists": (
        lambda p: p.train_dvae(recipe=p.file("mine.toml", "x = " + 2000 * "[")), ["not valid TOML"],
    ),
    "recipe that is no text": (
        lambda p: p.train_dvae(recipe=p.file("mine.toml", b"\xff")), ["not valid TOML"],
    ),
    "recipe that is a folder": (
        lambda p: p.train_dvae(recipe=p.folder("mine")), ["no such recipe"],
    ),
    "recipe with an endless name": (lambda p: ["recipes", "check", "x" * 5000], ["no such recipe"]),
    "recipe without a kind": (
        lambda p: ["recipes", "check", p.file("mine.toml", "x = 1")], ["`kind` must be"],
    ),
    "recipe whose kind is a list": (
        lambda p: ["recipes", "check", p.file("mine.toml", "kind = ['dvae']")], ["`kind` must be"],
    ),
    "override without a value": (
        lambda p: p.train_dvae("--set", "training.steps"), ["section.key=value"],
    ),
    "override below a value": (
        lambda p: p.train_dvae("--set", "training.steps.x=1"), ["is a value, not a table"],
    ),
    "a number for a schedule": (
        lambda p: p.train_dvae("--set", "optimizer.lr=1e-3"),
        ["1 problem", "`optimizer.lr`", "start", "end", "steps"],
    ),
    "a word for a floor": (
        lambda p: p.train_dvae("--set", "loss.min_log_scale=low"),
        ["1 problem", "`loss.min_log_scale`"],
    ),
    "a rate that is no number": (
        lambda p: p.train_dvae("--set", "optimizer.lr.start=nan"), ["`optimizer.lr.start`"],
    ),
    "a temperature of zero": (
        lambda p: p.train_dvae("--set", "loss.temperature.end=0.0"), ["`loss.temperature"],
    ),
    "precision there is not, in training": (lambda p: p.train_dvae("--precision", "fp8"), ["fp8"]),
    "precision there is not, in drawing": (
        lambda p: p.generate("a ring", "--precision", "fp8"), ["fp8"],
    ),
    "device there is not": (lambda p: p.generate("a ring", "--device", "toaster"), ["toaster"]),
    "device there is not, in training": (
        lambda p: p.train_dvae("--device", "toaster"), ["toaster"],
    ),
    "no caption": (lambda p: p.generate(), ["no captions"]),
    "empty caption": (lambda p: p.generate(""), ["an empty caption"]),
    "blank caption": (lambda p: p.generate("a ring", " \t"), ["an empty caption"]),
    "empty file of captions": (
        lambda p: p.generate("--prompts", p.file("prompts", "\n \n")), ["no captions"],
    ),
    "missing file of captions": (
        lambda p: p.generate("--prompts", p.root / "absent"), ["cannot read captions"],
    ),
    "file of captions that is no text": (
        lambda p: p.generate("--prompts", p.file("prompts", b"\xff\xff")), ["cannot read captions"],
    ),
    "caption that is no text": (lambda p: p.generate("a \udcff ring"), ["caption"]),
    "no pictures asked for": (lambda p: p.generate("a ring", "-n", 0), ["-n"]),
    "share above 1": (lambda p: p.generate("a ring", "--top-p", 1.5), ["--top-p"]),
    "share of nothing": (lambda p: p.generate("a ring", "--top-p", 0), ["--top-p"]),
    "temperature that is no number": (
        lambda p: p.generate("a ring", "--temperature", "nan"), ["temperature"],
    ),
    "guidance that is no number": (
        lambda p: p.generate("a ring", "--guidance", "nan"), ["--guidance"],
    ),
    "guidance below none": (lambda p: p.generate("a ring", "--guidance", -1), ["--guidance"]),
    "guidance beyond all bounds": (
        lambda p: p.generate("a ring", "--guidance", "inf"), ["--guidance"],
    ),
    "rows kept of no picture": (
        lambda p: p.generate("a ring", "--keep-rows", 2), ["--keep-rows", "--image"],
    ),
    "box of no picture": (
        lambda p: p.generate("a ring", "--redraw", "0,0,1,1"), ["--redraw", "--image"],
    ),
    "rows kept and a box redrawn": (
        lambda p: p.begin("--keep-rows", 2, "--redraw", "0,0,1,1"),
        ["--redraw", "rows are kept", "not both"],
    ),
    "no rows kept": (lambda p: p.begin("--keep-rows", 0), ["--keep-rows"]),
    "all rows kept": (
        lambda p: p.begin("--keep-rows", 4), ["can't keep 4 of 4 rows", "hint: keep 1 to 3 rows"],
    ),
    "more rows kept than there are": (
        lambda p: p.begin("--keep-rows", 9), ["can't keep 9 of 4 rows"],
    ),
    "box that is no box": (
        lambda p: p.begin("--redraw", "1,1"), ["--redraw", "must be four numbers", "1,1"],
    ),
    "box of words": (
        lambda p: p.begin("--redraw", "a,b,c,d"), ["--redraw", "must be four numbers"],
    ),
    "box before the first row": (
        lambda p: p.begin("--redraw", "-1,0,1,1"), ["--redraw", "must be four numbers"],
    ),
    "box outside the grid": (
        lambda p: p.begin("--redraw", "2,2,3,1"),
        ["no such box to redraw: 2,2,3,1", "hint: ", "4x4 tokens"],
    ),
    "box of nothing": (
        lambda p: p.begin("--redraw", "2,2,0,1"), ["no such box to redraw: 2,2,0,1"],
    ),
    "picture to begin from that is missing": (
        lambda p: p.generate("a ring", "--image", p.root / "absent.png"),
        ["cannot read the picture", "absent.png"],
    ),
    "picture to begin from that is a folder": (
        lambda p: p.generate("a ring", "--image", p.pairs), ["cannot read the picture"],
    ),
    "picture to begin from that is none": (
        lambda p: p.generate("a ring", "--image", p.broken() / "0.png"),
        ["cannot use the picture", "0.png: not a JPEG, PNG, WebP or GIF picture"],
    ),
    "best of what nothing ranks": (
        lambda p: p.generate("a ring", "--best", 1), ["--best", "--clip", "--rank"],
    ),
    "all of what nothing ranks": (
        lambda p: p.generate("a ring", "--keep-all"), ["--best", "--clip", "--rank"],
    ),
    "more of the best than are drawn": (
        lambda p: p.generate("a ring", "--rank", "perplexity", "--best", 2), ["--best", "2 of 1"],
    ),
    "two rankings at once": (
        lambda p: p.generate("a ring", "--rank", "perplexity", "--clip", p.clip),
        ["--clip", "--rank", "both"],
    ),
    "ranking there is not": (
        lambda p: p.generate("a ring", "--rank", "beauty"), ["beauty", "perplexity"],
    ),
    "out that another command has begun": (
        lambda p: [
            *p.generate("a ring"),
            "--out",
            p.file("begun/job.json", '{"schema": 2, "command": "rerank"}').parent,
        ],
        ["holds what `dalle rerank` wrote"],
    ),
    "out that was begun with a precision there is not": (
        lambda p: [
            *p.generate("a ring"),
            "--out",
            p.file("begun/job.json", '{"schema": 2, "precision": ["fp8"]}').parent,
        ],
        ["fp8"],
    ),
    "batch of none": (lambda p: p.generate("a ring", "--batch-size", 0), ["--batch-size"]),
    "out that holds something": (
        lambda p: [
            "generate",
            p.transformer,
            "a ring",
            "--out",
            p.file("full/thesis.tex", "years").parent,
        ],
        ["already holds something"],
    ),
    "out that is a file": (
        lambda p: ["generate", p.transformer, "a ring", "--out", p.file("thesis.tex", "years")],
        ["already holds something"],
    ),
    "shapes into a full folder": (
        lambda p: ["data", "shapes", p.file("full/thesis.tex", "years").parent],
        ["already holds something"],
    ),
    "emoji into a full folder": (
        lambda p: ["data", "emoji", p.file("full/thesis.tex", "years").parent],
        ["already holds something"],
    ),
    "rebuilt into a full folder": (
        lambda p: [
            "reconstruct",
            p.dvae,
            p.pairs,
            "--out",
            p.file("full/thesis.tex", "years").parent,
        ],
        ["already holds something"],
    ),
    "export onto something": (
        lambda p: ["export", p.dvae, "--out", p.file("full/thesis.tex", "years").parent],
        ["already holds"],
    ),
    "no caption to rank by": (
        lambda p: p.rerank(pictures=p.folder("bare", 1, captions=False)),
        ["no caption for", "000.png", "000.txt beside it"],
    ),
    "caption beside a picture that is no text": (
        lambda p: p.rerank(
            pictures=p.file("bare/000.txt", b"\xff").parent if p.folder("bare", 1) else ""
        ),
        ["000.txt: caption is not UTF-8"],
    ),
    "no caption in one row": (
        lambda p: p.rerank(pictures=p.file("rows.csv", "file,caption\na.png,a ring\nb.png, \n")),
        ["no caption for", "b.png"],
    ),
    "empty caption to rank by": (lambda p: p.rerank(""), ["an empty caption"]),
    "blank caption to rank by": (lambda p: p.rerank(" \t\x1b"), ["an empty caption"]),
    "caption to rank by that is no text": (lambda p: p.rerank("a \udcff ring"), ["caption"]),
    "best of none": (lambda p: p.rerank("a ring", "--top-k", 0), ["--top-k"]),
    "no CLIP to rank by": (lambda p: ["rerank", p.pairs, "a ring"], ["--clip"]),
    "precision there is not, in ranking": (
        lambda p: p.rerank("a ring", "--precision", "fp8"), ["fp8"],
    ),
    "device there is not, in ranking": (
        lambda p: p.rerank("a ring", "--device", "toaster"), ["toaster"],
    ),
    "best into a full folder": (
        lambda p: p.rerank("a ring", out=p.file("full/thesis.tex", "years").parent),
        ["already holds something"],
    ),
    "best into a file": (
        lambda p: p.rerank("a ring", out=p.file("thesis.tex", "years")),
        ["already holds something"],
    ),
    "DeepSpeed file that contradicts the recipe": (
        lambda p: p.train_with_zero(CONTRADICTION),
        [
            "`train_batch_size` is 64, the recipe says 4",
            "`gradient_clipping` is 1.5, the recipe says 4.0",
            "`fp16.enabled` is refused",
            "`runtime.precision`",
        ],
    ),
    "DeepSpeed file that contradicts the command line": (
        lambda p: p.train_with_zero(
            f"{{{OFFLOADED}}}",
            "--set",
            "runtime.zero_stage=3",
            "--set",
            "runtime.offload=parameters",
        ),
        ["`zero_optimization.stage` is 2, the recipe says 3"],
    ),
    "DeepSpeed file without a stage": (
        lambda p: p.train_with_zero("{}"),
        ["--deepspeed", "`runtime.zero_stage` is 0", "runtime.zero_stage=1"],
    ),
    "DeepSpeed file of stage 0": (
        lambda p: p.train_with_zero('{"zero_optimization": {"stage": 0}}'),
        ["`runtime.zero_stage` is 0"],
    ),
    "DeepSpeed file of a stage there is not": (
        lambda p: p.train_with_zero('{"zero_optimization": {"stage": 4}}'),
        ["`runtime.zero_stage`", "4"],
    ),
    "DeepSpeed file that is missing": (
        lambda p: p.train_transformer("--deepspeed", p.root / "absent.json"),
        ["can't read", "absent.json"],
    ),
    "DeepSpeed file that is a folder": (
        lambda p: p.train_transformer("--deepspeed", p.folder("config")), ["can't read", "config"],
    ),
    "DeepSpeed file that is no JSON": (
        lambda p: p.train_with_zero("stage = 2"), ["can't read", "ds.json"],
    ),
    "DeepSpeed file that is a list": (
        lambda p: p.train_with_zero("[]"), ["ds.json", "no JSON object"],
    ),
    "ZeRO in one process": (
        lambda p: p.train_transformer("--set", "runtime.zero_stage=2"),
        ["`runtime.zero_stage` 2", "only one was started", "--gpus N", "runtime.zero_stage=0"],
    ),
    "ZeRO in one process, by a file": (
        lambda p: p.train_with_zero('{"zero_optimization": {"stage": 3}}'),
        ["`runtime.zero_stage` 3", "only one was started", "--gpus N"],
    ),
    "replicas in one process": (
        lambda p: p.train_transformer("--set", "runtime.engine=ddp"),
        ["ddp", "only one was started", "--gpus N"],
    ),
    "ZeRO with another engine": (
        lambda p: p.train_transformer(
            "--set", "runtime.zero_stage=2", "--set", "runtime.engine=ddp"
        ),
        ["1 problem", "`runtime`", "`engine` must be deepspeed, not ddp"],
    ),
    "ZeRO with compressed gradients": (
        lambda p: p.train_with_zero(
            '{"zero_optimization": {"stage": 2}}', "--set", "powersgd.rank=8"
        ),
        ["`powersgd.rank` 8", "`runtime.zero_stage` 2"],
    ),
    "ZeRO for a dVAE": (
        lambda p: p.train_dvae("--set", "runtime.zero_stage=1"),
        ["`runtime`", "`zero_stage` is for the transformer"],
    ),
    "ZeRO for a CLIP": (
        lambda p: p.train_clip("--set", "runtime.zero_stage=3"),
        ["`runtime`", "`zero_stage` is for the transformer"],
    ),
    "run that is a file, to train in": (
        lambda p: [
            "train-dvae",
            "dvae/tiny",
            "--data",
            p.pairs,
            "--run",
            p.file("thesis.tex", "years"),
        ],
        ["is a file"],
    ),
}  # fmt: skip

CASES = [
    pytest.param(code, *case, id=name)
    for code, cases in ((1, KNOWN_FAILURES), (2, WRONG_USAGE))
    for name, case in cases.items()
]


@pytest.mark.parametrize(("code", "words", "fragments"), CASES)
def test_mistake_ends_in_one_clear_message(
    code: int, words: Callable, fragments: list[str], place: Place, dalle: Callable, tree: Callable
) -> None:
    if "cuda" in fragments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = words(place)
    before = tree(place.root)

    ended = dalle(*command)
    assert ended.code == code, ended.err
    assert ended.out == ""

    messages = [line for line in ended.err.splitlines() if line.lower().startswith("error: ")]
    assert len(messages) == 1 and "Traceback" not in ended.err
    assert not [fragment for fragment in fragments if fragment not in ended.err]

    after = tree(place.root)
    assert {name: after.get(name) for name in before} == before
    assert not (place.root / "out").exists()


def test_deepspeed_file_that_contradicts_the_recipe_leaves_nothing_behind(
    place: Place, dalle: Callable, tree: Callable
) -> None:
    command = place.train_with_zero(CONTRADICTION)
    before = tree(place.root)
    assert dalle(*command).code == 2
    assert tree(place.root) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of DeepSpeed, which a dry run starts
@pytest.mark.parametrize("setting", ["runtime.engine=deepspeed", "runtime.offload=optimizer"])
def test_stage_of_a_deepspeed_file_goes_with_what_the_command_line_says(
    setting: str, place: Place, dalle: Callable
) -> None:
    ended = dalle(
        *place.train_with_zero('{"zero_optimization": {"stage": 2}}', "--set", setting, "--dry-run")
    )
    assert "needs a `zero_stage`" not in ended.err


def test_captions_on_standard_input_that_are_no_text_are_told(
    place: Place, dalle: Callable
) -> None:
    ended = dalle(*place.generate("--prompts", "-"), stdin=b"a \xff ring\n")
    assert ended.code == 2 and "error: " in ended.err


def test_prompt_full_of_markup_in_an_error_stays_as_it_is(place: Place, dalle: Callable) -> None:
    ended = dalle("generate", place.root / "[bold]absent[/bold]\x1b[31m", "[red]a ring[/red]")
    assert ended.code == 2 and "[bold]absent[/bold]\ufffd[31m" in ended.err


def test_failed_training_can_be_started_again_once_the_mistake_is_mended(
    place: Place, dalle: Callable
) -> None:
    """A wrong dVAE leaves no half-made run behind."""
    assert dalle(*place.train_transformer(dvae=place.folder("nothing"))).code == 2
    assert not (place.root / "run").exists()
    assert dalle(*place.train_transformer()).code == 0


def test_run_that_is_gone_is_told_before_the_captions_are_read_in(
    place: Place, dalle: Callable
) -> None:
    shutil.rmtree(place.transformer)
    ended = dalle(*place.generate("a ring"))
    assert ended.code == 2 and not place.transformer.exists()
