"""The kinds of recipes and of model folders, each with its table, and what trains them."""

from dalle_cli.config.tables import (
    ClipRecipe,
    DVAEEncoderTable,
    DVAEModelTable,
    DVAERecipe,
    TrainedClipTable,
    TrainedTransformerTable,
    TransformerRecipe,
)
from dalle_cli.config.unclip import (
    AutoregressivePriorModelTable,
    DecoderModelTable,
    EmbeddingCodecTable,
    PriorModelTable,
)
from dalle_cli.config.unclip_recipes import (
    AutoregressivePriorRecipe,
    DecoderRecipe,
    PriorRecipe,
)

AnyPriorRecipe = PriorRecipe | AutoregressivePriorRecipe
UnclipRecipe = AnyPriorRecipe | DecoderRecipe
Recipe = DVAERecipe | TransformerRecipe | ClipRecipe | UnclipRecipe
RECIPE_TYPES: dict[str, type[Recipe]] = {
    "dvae": DVAERecipe,
    "transformer": TransformerRecipe,
    "clip": ClipRecipe,
    "prior": PriorRecipe,
    "prior-autoregressive": AutoregressivePriorRecipe,
    "decoder": DecoderRecipe,
}

ModelTable = (
    DVAEEncoderTable
    | DVAEModelTable
    | TrainedTransformerTable
    | TrainedClipTable
    | PriorModelTable
    | AutoregressivePriorModelTable
    | DecoderModelTable
    | EmbeddingCodecTable
)
MODEL_TABLES: dict[str, type[ModelTable]] = {
    "dvae": DVAEModelTable,
    "dvae-encoder": DVAEEncoderTable,
    "transformer": TrainedTransformerTable,
    "clip": TrainedClipTable,
    "prior": PriorModelTable,
    "prior-autoregressive": AutoregressivePriorModelTable,
    "decoder": DecoderModelTable,
    "embedding-codec": EmbeddingCodecTable,
}


TRAINED_WITH_CLIP = ("prior", "prior-autoregressive", "decoder")  # of which each run has a copy


def kind_of(model: ModelTable) -> str:
    """Return the kind of model that a table describes."""
    return next(kind for kind, table in MODEL_TABLES.items() if type(model) is table)


def training_command(kind: str) -> str:
    """Return the name of the command that trains a kind of model; both priors have the same."""
    return "train-" + kind.partition("-")[0]
