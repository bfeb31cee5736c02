"""What a model card says of each kind of model."""

from dataclasses import dataclass

PAPER = "https://arxiv.org/abs/2102.12092"
UNCLIP_TAGS = ("dall-e-2", "unclip", "clip")


@dataclass(frozen=True)
class CardKind:
    """What a card says of a kind of model.

    use           a command, with the export's name for {name}
    use_of_clip   another, for an export that brings a CLIP
    use_of_prior  another, for an export that brings a prior
    """

    title: str
    tags: tuple[str, ...]
    about: str
    use: str
    task: str | None = None
    use_of_clip: str = ""
    use_of_prior: str = ""


CARD_KINDS = {
    "transformer": CardKind(
        "transformer",
        ("dall-e", "text-to-image", "discrete-vae"),
        "A DALL-E as in [Ramesh et al. 2021]({paper}): a transformer that predicts the tokens of a "
        "picture from its caption, and the discrete VAE that turns them into pixels.",
        'dalle generate {name} "a caption" -n 8',
        "text-to-image",
        'dalle generate {name} "a caption" -n 32 --clip {name} --best 8',
    ),
    "dvae": CardKind(
        "discrete VAE",
        ("dall-e", "discrete-vae"),
        "The discrete VAE of a DALL-E ([Ramesh et al. 2021]({paper})): it turns a picture into a "
        "grid of tokens, and tokens into a picture.",
        "dalle reconstruct {name} pictures/ --out compared/",
    ),
    "dvae-encoder": CardKind(
        "encoder",
        ("dall-e", "discrete-vae"),
        "The encoder of a discrete VAE ([Ramesh et al. 2021]({paper})), without its decoder: it "
        "turns a picture into a grid of tokens.",
        "dalle data encode pictures/ --dvae {name} --out tokens/",
    ),
    "clip": CardKind(
        "CLIP",
        ("clip", "dall-e"),
        "A CLIP (Radford et al. 2021) that scores how well a picture fits a caption, for ranking "
        "what a DALL-E ([Ramesh et al. 2021]({paper})) generates.",
        'dalle rerank pictures/ "a caption" --clip {name}',
        "zero-shot-image-classification",
    ),
    "prior": CardKind(
        "diffusion prior",
        UNCLIP_TAGS,
        "The prior of a DALL-E 2 (Ramesh et al. 2022): it guesses from a caption which embedding "
        "CLIP would give to its picture. That CLIP comes with it.",
        'dalle generate DECODER "a caption" --prior {name}',
    ),
    "prior-autoregressive": CardKind(
        "autoregressive prior",
        UNCLIP_TAGS,
        "The autoregressive prior of a DALL-E 2 (Ramesh et al. 2022): it guesses from a caption "
        "which embedding CLIP would give to its picture, code by code. That CLIP comes with it.",
        'dalle generate DECODER "a caption" --prior {name}',
    ),
    "embedding-codec": CardKind(
        "codec",
        UNCLIP_TAGS,
        "The codec of an autoregressive prior (Ramesh et al. 2022): principal components of CLIP's "
        "image embeddings, quantised.",
        "dalle info {name}",
    ),
    "decoder": CardKind(
        "decoder",
        UNCLIP_TAGS,
        "The decoder of a DALL-E 2 (Ramesh et al. 2022): it paints the picture of an embedding of "
        "CLIP's and a caption. That CLIP comes with it.",
        "dalle vary {name} picture.png -n 8",
        use_of_prior='dalle generate {name} "a caption" -n 8',
    ),
}
