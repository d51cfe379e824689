"""Rules for mT5's encoder: keys of transformers' ``MT5EncoderModel``, below ``text_encoder.`` in the release."""

from stav2a_jax.convert.rules import LINEAR, SAME, Rule, layer

_ATTENTION, _FEED_FORWARD = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"


def _linear(torch: str, flax: str) -> tuple[Rule, ...]:
    return layer(torch, flax, LINEAR, bias=False)


def _rms(torch: str, flax: str) -> tuple[Rule, ...]:
    return layer(torch, flax, SAME, bias=False, names=("scale", ""))


TEXT: tuple[Rule, ...] = (
    Rule("shared.weight", "embedding"),
    Rule("encoder.embed_tokens.weight", None, why="the same tensor as shared.weight", tied="shared.weight"),
    Rule("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative_bias"),
    *(r for name in "qkvo" for r in _linear(f"{_ATTENTION}.SelfAttention.{name}", f"block_{{i}}/{name}")),
    *_rms(f"{_ATTENTION}.layer_norm", "block_{i}/attention_norm"),
    *(
        r
        for name in ("wi_0", "wi_1", "wo")
        for r in _linear(f"{_FEED_FORWARD}.DenseReluDense.{name}", f"block_{{i}}/{name}")
    ),
    *_rms(f"{_FEED_FORWARD}.layer_norm", "block_{i}/feed_forward_norm"),
    *_rms("encoder.final_layer_norm", "final_norm"),
)
"""``TextEncoder``."""

UNTIED: tuple[Rule, ...] = tuple(rule for rule in TEXT if rule.tied is None)
"""The same for a file that holds the embedding once, as safetensors files do."""
