"""The folder of `dalle train`: a plan's recipes, the runs they become, and the commands between.

job.json     what was asked for, by which the same command is told from another
recipes/     a recipe for each model, to copy and change
plan.json    what the commands need besides; written last
dvae/ tokens/ transformer/ clip/     runs, and the encoded pictures
captions/    captions of training, and held-out ones
pictures/    what is generated for them
grid.png
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dalle_cli.config import TransformerRecipe
from dalle_cli.data.images import BadSample
from dalle_cli.errors import DalleError
from dalle_cli.storage.atomic import make_folder, write_file
from dalle_cli.storage.job_folder import JobFolder
from dalle_cli.storage.run_dir import JOB
from dalle_cli.storage.run_record import absolute_source
from dalle_cli.storage.small_files import load_json
from dalle_cli.training.planning.plan import Plan
from dalle_cli.training.planning.planned_recipes import planned_text
from dalle_cli.training.run import TrainOptions
from dalle_cli.training.run_data import Portion, RunData

CANDIDATES, SHOWN = 8, 4  # pictures of a caption that are generated, and the best of them
MOST_CAPTIONS = 10  # of each group
GROUPS = ("trained", "held-out")

Command = list[Any]


@dataclass(frozen=True)
class ChainOptions:
    """What `dalle train` has besides the options of a training command.

    hours  for everything; None: what is usual for the device
    like   the name of shipped recipes whose models are trained; None: models are chosen
    """

    hours: float | None = None
    like: str | None = None
    gpus: int | None = None
    plan_only: bool = False


def chain_job(training: TrainOptions, chain: ChainOptions) -> dict[str, Any]:
    """Return what `dalle train` was asked for, as its folder records it."""
    exclude = training.exclude
    return {
        "command": "train",
        "data": absolute_source(training.data[0]),
        "image_column": training.image_column,
        "caption_column": training.caption_column,
        "exclude": None if exclude is None else absolute_source(str(exclude)),
        "hours": chain.hours,
        "like": chain.like,
        "gpus": chain.gpus,
        "log": training.log,
    }


def recorded_training(root: Path) -> tuple[TrainOptions, ChainOptions] | None:
    """Return what `dalle train` was begun with in a folder; None if another command wrote it."""
    if not (root / JOB).is_file():
        return None
    job = JobFolder.open(root)
    if job.recall("command", "generate") != "train":
        return None
    exclude = job.recall("exclude", None)
    training = TrainOptions(
        data=(job.recall("data", ""),),
        run=root,
        image_column=job.recall("image_column", None),
        caption_column=job.recall("caption_column", None),
        exclude=None if exclude is None else Path(exclude),
        log=job.recall("log", None),
    )
    chain = {name: job.recall(name, None) for name in ("hours", "like", "gpus")}
    return training, ChainOptions(**chain)


@dataclass(frozen=True)
class Chain:
    """What the commands of a chain need besides its recipes.

    kinds   of models, in the order of training
    copies  as in `Plan`
    groups  of captions that are generated at the end
    rank    by what these are ranked where there is no CLIP, as in `generate --rank`
    """

    kinds: list[str]
    copies: int
    groups: list[str]
    rank: str


@dataclass(frozen=True)
class ChainFolder:
    """The folder of a chain, and the plan in it once it is complete."""

    root: Path

    def recipe(self, kind: str) -> Path:
        """The recipe of a model."""
        return self.root / "recipes" / f"{kind}.toml"

    def run(self, kind: str) -> Path:
        """The run of a model."""
        return self.root / kind

    @property
    def tokens(self) -> Path:
        """The pictures as image tokens."""
        return self.root / "tokens"

    def captions(self, group: str) -> Path:
        """The captions of a group that are generated at the end."""
        return self.root / "captions" / f"{group}.txt"

    def pictures(self, group: str) -> Path:
        """The pictures generated for a group of captions."""
        return self.root / "pictures" / group

    @property
    def plan(self) -> Path:
        """What the commands need besides recipes."""
        return self.root / "plan.json"

    def write(self, plan: Plan, captions: Mapping[str, list[str]]) -> None:
        """Write recipes, captions and, last, the plan."""
        reasons = [f"{choice.what}: {choice.value}; {choice.reason}" for choice in plan.choices]
        for kind, recipe in plan.recipes.items():
            about = f"Planned by `dalle train`: the {kind} of these pictures, on this machine."
            _write(self.recipe(kind), planned_text(recipe, [about, "", *reasons]))
        for group, some in captions.items():
            _write(self.captions(group), "".join(f"{caption}\n" for caption in some))

        _write(self.plan, json.dumps(asdict(chain_of(plan, captions)), indent=1) + "\n")

    def read(self) -> Chain:
        """Read the plan; raises DalleError where it is damaged."""
        try:
            return Chain(**load_json(self.plan))
        except (OSError, ValueError, TypeError) as error:
            raise DalleError(f"{self.plan} is damaged: {error}", "name a new folder") from error

    def commands(
        self,
        chain: Chain,
        source: str,
        *,
        reading: Sequence[str] = (),
        machine: Sequence[str] = (),
        logging: Sequence[str] = (),
    ) -> list[Command]:
        """Return the commands that carry a plan out, in order.

        source   what `dalle train` was given
        reading  the options that name its columns, and samples to exclude
        machine  the options for commands that train and generate, such as `--device`
        logging  the options for commands that train alone
        """
        pictures = ["--data", source, *reading]
        data = ["--data", self.tokens] if chain.copies else pictures
        dvae, transformer, clip = map(self.run, ("dvae", "transformer", "clip"))

        commands: list[Command] = [
            ["train-dvae", self.recipe("dvae"), *pictures, "--run", dvae, *machine, *logging]
        ]
        if chain.copies:
            copies = ["--out", self.tokens, "--copies", chain.copies]
            commands.append(["data", "encode", source, *reading, "--dvae", dvae, *copies])
        learning = ["--dvae", dvae, "--run", transformer, *machine, *logging]
        commands.append(["train-transformer", self.recipe("transformer"), *data, *learning])

        ranking: Command = ["--rank", chain.rank]
        if "clip" in chain.kinds:
            words = [*pictures, "--run", clip, *machine, *logging]
            commands.append(["train-clip", self.recipe("clip"), *words])
            ranking = ["--clip", clip]
        for group in chain.groups:
            prompts = ["--prompts", self.captions(group), "-n", CANDIDATES, "--best", SHOWN]
            out = ["--out", self.pictures(group), *machine]
            commands.append(["generate", transformer, *prompts, *ranking, *out])
        return commands


def chain_of(plan: Plan, captions: Mapping[str, list[str]]) -> Chain:
    """Return the chain of a plan and of the captions of each group."""
    groups = [group for group, some in captions.items() if some]
    transformer = plan.recipes["transformer"]
    assert isinstance(transformer, TransformerRecipe)
    rank = "caption" if transformer.loss.caption_dropout else "perplexity"
    return Chain(list(plan.recipes), plan.copies, groups, rank)


def chosen_captions(data: RunData) -> dict[str, list[str]]:
    """Return captions to generate at the end: a few of training, and a few that are held out."""
    portions = dict(zip(GROUPS, (data.training, data.validation), strict=True))
    return {group: _some_captions(portion) for group, portion in portions.items()}


def _some_captions(portion: Portion) -> list[str]:
    """Return the first caption of a few samples, evenly spread."""
    captions: list[str] = []
    step = max(len(portion.indices) // (2 * MOST_CAPTIONS), 1)
    for index in portion.indices[::step]:
        try:
            first = portion.source.captions(int(index))[:1]
        except BadSample:
            continue
        captions += [caption for caption in first if caption not in captions]
    return captions[:: max(len(captions) // MOST_CAPTIONS, 1)][:MOST_CAPTIONS]


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_file(path, text)
