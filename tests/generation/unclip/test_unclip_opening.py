"""What guesses embeddings for a decoder: which choices are refused, and with which message."""

from pathlib import Path
from typing import Any

import pytest
from toy_unclip import BOTH_DROPPED, decoder_parts, diffusion_prior_parts, scorer

from dalle_cli.errors import DalleError, UsageError
from dalle_cli.generation.unclip.opening import open_prior
from dalle_cli.generation.unclip.settings import UnclipSettings
from dalle_cli.loading import build_prior
from dalle_cli.loading.unclip_parts import DecoderParts
from dalle_cli.storage.model_folder import write_model
from dalle_cli.storage.run_dir import RunDir


def opened(
    choice: str | None, run: Path, parts: DecoderParts | None = None, **settings: Any
) -> object:
    return open_prior(
        choice,
        UnclipSettings(**settings),
        run=run,
        parts=parts or decoder_parts(),
        scorer=scorer(),
        precision="fp32",
    )


def test_prior_of_another_width_is_refused(tmp_path: Path) -> None:
    """As an export may bring it where its parts were put together by hand."""
    table = diffusion_prior_parts().table.model_copy(update={"d_embed": 16})
    config = {"kind": "prior", "model": table.model_dump()}
    write_model(RunDir(RunDir(tmp_path).prior).model, config, build_prior(table).state_dict())
    with pytest.raises(DalleError, match=r"of width 16, and the CLIP's are of width 32"):
        opened(None, tmp_path)


@pytest.mark.parametrize("choice", ["text", "none"])
@pytest.mark.parametrize("settings", [{"prior_steps": 8}, {"prior_guidance": 2.0}], ids=str)
def test_settings_of_a_prior_are_refused_without_one(
    choice: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    opened(choice, tmp_path)
    with pytest.raises(UsageError, match=f"`--prior {choice}` samples from no prior") as caught:
        opened(choice, tmp_path, **settings)
    option = f"--{next(iter(settings)).replace('_', '-')}"
    assert option in caught.value.hint


def test_decoder_that_needs_embeddings_is_not_left_without_them(tmp_path: Path) -> None:
    never = decoder_parts(dropouts={**BOTH_DROPPED, "embedding_dropout": 0.0})
    with pytest.raises(UsageError, match=r"`loss.embedding_dropout` was 0"):
        opened("none", tmp_path, never)
    opened("text", tmp_path, never)

    speechless = decoder_parts(text_len=None, d_text=None)
    with pytest.raises(UsageError, match="reads no captions, and needs embeddings"):
        opened("none", tmp_path, speechless)
