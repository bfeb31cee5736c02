"""`dalle import dvae`: OpenAI's released discrete VAE, converted to a run."""

from pathlib import Path

from dalle_cli.config import kind_of
from dalle_cli.console import Terminal
from dalle_cli.interop.openai_dvae import read_openai_dvae
from dalle_cli.storage.atomic import atomic_folder
from dalle_cli.storage.model_folder import write_model
from dalle_cli.storage.run_dir import RunDir, check_new_folder


def run_import_dvae(encoder: Path, decoder: Path | None, run: Path, terminal: Terminal) -> None:
    """Write the weights of both files, or of an encoder alone, as a run's model folder.

    Nothing in the files is executed. The folder appears complete or not at all.
    """
    check_new_folder(run)
    terminal.say(f"writing {run}")
    public = read_openai_dvae(encoder, decoder)
    kind = kind_of(public.table)
    config = {"kind": kind, "model": public.table.model_dump()}
    with atomic_folder(run) as staging:
        write_model(RunDir(staging).model, config, public.weights)

    if decoder is None:
        terminal.say("without a decoder, it computes image tokens and generates no pictures")
        terminal.suggest(["data", "encode", "SRC", "--dvae", str(run), "--out", "DIR"])
    else:
        terminal.suggest(["reconstruct", str(run), "PICTURES...", "--out", "DIR"])
    terminal.result(str(run), {"run": str(run), "kind": kind})
