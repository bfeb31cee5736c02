"""`dalle train-transformer`: captioned pictures, or their tokens, and a discrete VAE to a transformer that draws."""

import filecmp
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from dalle_cli.config import TransformerModelTable, TransformerRecipe
from dalle_cli.console import Terminal
from dalle_cli.data.preprocessing import TransformerPreprocessing
from dalle_cli.data.sources import TokenSource
from dalle_cli.data.tokenizer import Tokenizer
from dalle_cli.errors import DalleError, UsageError
from dalle_cli.loading import build_transformer, dvae_checksum, load_dvae
from dalle_cli.models.dvae import DiscreteVAE
from dalle_cli.models.transformer import Transformer
from dalle_cli.runtime.devices import choose_device
from dalle_cli.runtime.distributed import init_process_group
from dalle_cli.runtime.precision import apply_precision
from dalle_cli.storage.atomic import atomic_write
from dalle_cli.storage.run_dir import CONFIG, WEIGHTS, dvae_model_dir
from dalle_cli.training.activation_checkpointing import checkpoint_activations
from dalle_cli.training.attention_backend import choose_attention_backend, set_attention_backend
from dalle_cli.training.optimization.gradient_scaling import BranchScales, scale_gradients
from dalle_cli.training.run import TrainingRun, TrainOptions, open_run
from dalle_cli.training.tasks.fused_losses import fuse_losses
from dalle_cli.training.tasks.transformer import TransformerTask
from dalle_cli.training.tokenizer_choice import choose_tokenizer, keep_tokenizer

ANOTHER_DVAE = (
    "give the dVAE that encoded with `--dvae`, or encode the pictures again: `dalle data encode`"
)


@dataclass(frozen=True)
class TransformerOptions:
    """What only this command asks for."""

    dvae: Path
    tokenizer: Path | None = None


def train_transformer(
    recipe: TransformerRecipe, options: TrainOptions, own: TransformerOptions, terminal: Terminal
) -> None:
    """Begin or resume the run; raises DalleError for what a user can cause."""
    with init_process_group(choose_device(options.device)) as world:
        session = open_run(recipe, options, terminal, True, world, tokens_allowed=True)
        _train(session, recipe, options, own, terminal)


def _train(
    session: TrainingRun,
    recipe: TransformerRecipe,
    options: TrainOptions,
    own: TransformerOptions,
    terminal: Terminal,
) -> None:
    dvae = load_dvae(own.dvae)
    check_fit(dvae, recipe.model, own.dvae)
    for portion in (session.training, session.validation):
        if isinstance(portion.source, TokenSource):
            check_encoder(dvae, own.dvae, portion.source)
    with torch.device("meta"):
        session.describe(build_transformer(recipe.model, recipe.tokenizer.vocab_size))
    if options.dry_run:
        terminal.result(
            f"nothing written to {options.run}", {"run": str(options.run), "dry_run": True}
        )
        return
    tokenizer = choose_tokenizer(session, recipe.tokenizer, own.tokenizer)
    torch.manual_seed(recipe.training.seed)  # the initial weights
    transformer = build_transformer(recipe.model, tokenizer.vocab_size)
    device = session.world.device
    apply_precision(dvae.to(device, memory_format=torch.channels_last), session.precision, device)
    scales = train_in(transformer, session)
    begin(session, own, tokenizer)
    loss, seed = recipe.loss, recipe.training.seed
    task_on = partial(TransformerTask, dvae=dvae, loss=loss, seed=seed)
    prepare = TransformerPreprocessing(
        dvae.image_size,
        recipe.model.text_len,
        tokenizer,
        recipe.tokenizer.dropout,
        loss.caption_dropout,
    )
    config = {**recipe.model.model_dump(), "text_vocab_size": tokenizer.vocab_size}
    session.train(transformer, task_on, prepare, {"kind": "transformer", "model": config}, scales)
    terminal.say(f'next: dalle generate {options.run} "a caption"')
    terminal.result(str(options.run), {"run": str(options.run)})


def train_in(transformer: Transformer, session: TrainingRun) -> BranchScales | None:
    """Let the transformer train in the session's precision, by the fastest attention, recomputed where asked for.

    In fp16 that takes a gradient scale for each branch.
    """
    fuse_losses(transformer)
    attention = choose_attention_backend(
        session.recipe.runtime.attention, transformer, session.world.device
    )
    set_attention_backend(
        attention, transformer, session.recipe.model.kernel_size, session.world.device
    )
    device, branches, scales = session.world.device, transformer.half_precision_modules(), None
    if session.precision == "fp16":
        scales = scale_gradients(branches, session.world.size, device)
    else:
        apply_precision(transformer, session.precision, device)
    runtime = session.recipe.runtime
    if runtime.activation_checkpointing is True or runtime.zero_stage == 3:
        checkpoint_activations(branches)
    return scales


def check_fit(dvae: DiscreteVAE, model: TransformerModelTable, path: Path) -> None:
    """Raise DalleError unless the dVAE speaks the image tokens that the recipe's transformer reads."""
    given = (dvae.grid_size, dvae.vocab_size)
    if given != (model.grid_size, model.image_vocab_size):
        raise DalleError(
            f"{path} makes {given[0]}x{given[0]} tokens out of {given[1]}, "
            f"the recipe expects {model.grid_size}x{model.grid_size} out of {model.image_vocab_size}",
            f"`--set model.grid_size={given[0]} --set model.image_vocab_size={given[1]}`, or another dVAE",
        )


def check_encoder(dvae: DiscreteVAE, path: Path, source: TokenSource) -> None:
    """Raise UsageError unless a folder of tokens was encoded by the dVAE."""
    encoding = source.encoding
    given, encoder = (dvae.grid_size, dvae.vocab_size), (encoding.grid_size, encoding.vocab_size)
    if given != encoder:
        raise UsageError(
            f"{source.name} holds {encoder[0]}x{encoder[0]} tokens out of {encoder[1]}, "
            f"{path} makes {given[0]}x{given[0]} out of {given[1]}",
            ANOTHER_DVAE,
        )
    if dvae_checksum(path) != encoding.dvae:
        raise UsageError(f"{source.name} was encoded by another dVAE than {path}", ANOTHER_DVAE)


def begin(session: TrainingRun, own: TransformerOptions, tokenizer: Tokenizer) -> None:
    """Write the run's record and what makes it self-contained: its dVAE and its tokenizer."""
    given, copied = dvae_model_dir(own.dvae), session.run.dvae
    has_copy = (copied / WEIGHTS).is_file()
    if has_copy and not filecmp.cmp(copied / WEIGHTS, given / WEIGHTS, shallow=False):
        hint = f"`--dvae {session.run.root}` goes on with the run's own copy"
        raise DalleError(f"{own.dvae} is not the dVAE this run began with", hint)
    with session.world.main_first() as is_ours:
        if is_ours:
            _write(session, given, has_copy, tokenizer)


def _write(session: TrainingRun, given: Path, has_copy: bool, tokenizer: Tokenizer) -> None:
    copied = session.run.dvae
    session.record()
    if not has_copy:
        copied.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, WEIGHTS):
            with atomic_write(copied / name) as beside:
                shutil.copyfile(given / name, beside)
    keep_tokenizer(session.run, tokenizer)
