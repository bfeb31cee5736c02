"""Captions as CLIP's text tower returns them: up to the end, and what they are projected to."""

import torch

from dalle_cli.models.clip import Clip, Tower
from dalle_cli.models.unclip.clip_captions import encode_captions, given_slots

TOWER = Tower(2, 16, 2, 32)


def clip(end_of_text: int | None) -> Clip:
    torch.manual_seed(0)
    model = Clip(16, 8, 6, 20, 12, "gelu", TOWER, TOWER, end_of_text=end_of_text)
    return model.requires_grad_(False)


TOKENS = torch.tensor([[18, 19, 0, 0, 0, 0], [18, 3, 4, 19, 0, 0], [18, 1, 2, 3, 4, 19]])


def test_slots_are_given_up_to_the_end_of_text() -> None:
    for model in (clip(None), clip(19)):
        assert given_slots(model, TOKENS).sum(dim=1).tolist() == [2, 4, 6]
    earlier = TOKENS.where(TOKENS != 19, torch.tensor(7))  # another end than the largest id
    assert given_slots(clip(7), earlier).sum(dim=1).tolist() == [2, 4, 6]


def test_states_and_embeddings_are_clips_and_padding_changes_neither() -> None:
    model = clip(19)
    captions, embeddings = encode_captions(model, TOKENS)
    torch.testing.assert_close(embeddings, model.encode_text(TOKENS))
    short, alone = encode_captions(model, TOKENS[1:2, :4])
    torch.testing.assert_close(short.values, captions.values[1:2, :4])
    torch.testing.assert_close(alone, embeddings[1:2])
