"""Rules for the adapters: ``trans_cvap_feature.`` (local), ``pre_onset.`` and ``global_video_feature.`` (pooling)."""

from stav2a_jax.convert.rules import CONV1D, LINEAR, POINTWISE1D, Layout, Rule, layer

_POTENTIALS = Layout(lambda x: x.reshape(-1), lambda x: x.reshape(1, -1, 1))

LOCAL: tuple[Rule, ...] = layer("fc{i}", "fc{i}", LINEAR)
"""``LocalAdapter``; the release spells its prefix *cvap*."""

ONSET: tuple[Rule, ...] = layer("l{i}", "l{i}", LINEAR)
"""``OnsetHead``."""

POOLING: tuple[Rule, ...] = (
    *layer("fc", "fc", LINEAR),
    *layer("fga.un_models.0.embed", "unary_embed", POINTWISE1D),
    *layer("fga.un_models.0.feature_reduce", "unary_reduce", POINTWISE1D),
    *layer("fga.pp_models.0.embed_X", "pair_query", POINTWISE1D),
    *layer("fga.pp_models.0.embed_Y", "pair_key", POINTWISE1D),
    Rule("fga.reduce_potentials.0.weight", "reduce_potentials", _POTENTIALS, why="order unary, pairwise"),
    *layer("conv", "conv", CONV1D),
)
"""``AttentivePooling``."""
