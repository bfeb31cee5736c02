"""Converting names and shapes of CLIP's weights from the three public layouts to the one used here.

That is OpenAI's. Everything is accounted for: a name that no rule matches is kept, for the loader
to refuse.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's files
TRAINING_CHECKPOINT = "state_dict."  # prefix that `read_tensors` puts before open_clip's names
TEXT_PARTS = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)
POSITION_IDS = re.compile(r"(text|vision)_model\.embeddings\.position_ids$")  # in older files
QUERY_KEY_VALUE = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)$")

HF_TO_OPENAI = [
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"(resblocks\.\d+)\.layer_norm([12])\.", r"\1.ln_\2."),
    (r"(resblocks\.\d+)\.mlp\.fc1\.", r"\1.mlp.c_fc."),
    (r"(resblocks\.\d+)\.mlp\.fc2\.", r"\1.mlp.c_proj."),
    (r"(resblocks\.\d+)\.self_attn\.", r"\1.attn."),
]
TRANSPOSED = ("text_projection.weight", "visual_projection.weight")


def from_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights from OpenAI's or open_clip's layout.

    open_clip may put `text.` before the names of the text tower. Prefixes that training puts before
    all names are dropped: `state_dict.` and DistributedDataParallel's `module.`.
    """
    for prefix in (TRAINING_CHECKPOINT, "module."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}

    weights = {
        _without_text_prefix(name): tensor
        for name, tensor in tensors.items()
        if name not in NOT_WEIGHTS
    }
    if weights.get("logit_scale", torch.empty(0)).numel() == 1:
        weights["logit_scale"] = weights["logit_scale"].reshape(())
    return weights


def _without_text_prefix(name: str) -> str:
    bare = name.removeprefix("text.")
    return bare if bare.startswith(TEXT_PARTS) else name


def from_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights of a Hugging Face CLIPModel.

    The three attention matrices become one, and the projections are transposed.
    """
    weights: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}

    for name, tensor in tensors.items():
        if POSITION_IDS.match(name):
            continue
        if match := QUERY_KEY_VALUE.match(name):
            layer, part, kind = match.groups()
            thirds.setdefault(_openai_name(f"{layer}.self_attn.in_proj_{kind}"), {})[part] = tensor
        else:
            weights[_openai_name(name)] = tensor.t() if name in TRANSPOSED else tensor

    for name, parts in thirds.items():
        if parts.keys() == set("qkv"):
            weights[name] = torch.cat([parts[part] for part in "qkv"])  # [3 D, D] or [3 D]
    return weights


def _openai_name(name: str) -> str:
    for pattern, replacement in HF_TO_OPENAI:
        name = re.sub(pattern, replacement, name)
    return name
