"""Rules for CAVP: keys of ``cavp_epoch66.ckpt`` (``module.``) and of the release (``extract_cavp.stage1_model.``)."""

from stav2a_jax.convert.rules import CONV2D, CONV3D, LINEAR, Layout, Rule, layer, norm, prefixed


def _frozen_norm(torch: str, flax: str) -> tuple[Rule, ...]:
    return (
        *norm(torch, flax),
        Rule(f"{torch}.running_mean", f"{flax}/mean"),
        Rule(f"{torch}.running_var", f"{flax}/var"),
        Rule(f"{torch}.num_batches_tracked", None, why="counts training batches; frozen statistics do not need it"),
    )


def _conv(torch: str, flax: str, layout: Layout) -> tuple[Rule, ...]:
    return layer(torch, flax, layout, bias=False)


def _conv_norm(torch: str, flax: str) -> tuple[Rule, ...]:
    return _conv(f"{torch}.conv", flax, CONV3D) + _frozen_norm(f"{torch}.bn", f"{flax}/norm")


VIDEO: tuple[Rule, ...] = (
    *_conv_norm("video_encoder.conv1", "trunk/conv1"),
    *(
        rule
        for name in ("conv1", "conv2", "conv3", "downsample")
        for rule in _conv_norm(f"video_encoder.layer{{s}}.{{b}}.{name}", f"trunk/layer{{s}}_{{b}}/{name}")
    ),
    *layer("video_project_head", "project", LINEAR),
)
"""``VideoEncoder``."""

SPEC: tuple[Rule, ...] = (
    *_frozen_norm("spec_encoder.bn", "norm"),
    *(
        rule
        for i in (1, 2)
        for rule in (
            *_conv(f"spec_encoder.conv_block{{b}}.conv{i}", f"block{{b}}/conv{i}", CONV2D),
            *_frozen_norm(f"spec_encoder.conv_block{{b}}.bn{i}", f"block{{b}}/norm{i}"),
        )
    ),
    *layer("spec_encoder.fc1", "fc1", LINEAR),
    *layer("spec_encoder.final_project", "project", LINEAR),
)
"""``SpecEncoder``."""

LOGIT_SCALE = Rule("logit_scale", None, why="temperature of the contrastive loss, which is not trained here")


def dropped(rules: tuple[Rule, ...], why: str) -> tuple[Rule, ...]:
    """The same keys, all left out."""
    return tuple(rule._replace(flax=None, why=rule.why if rule.flax is None else why) for rule in rules)


VIDEO_ONLY: tuple[Rule, ...] = (*VIDEO, *dropped(SPEC, "the generator sees no spectrogram encoder"), LOGIT_SCALE)
"""A whole CAVP checkpoint to ``VideoEncoder``."""

BOTH: tuple[Rule, ...] = (*prefixed(VIDEO, flax="video/"), *prefixed(SPEC, flax="spec/"), LOGIT_SCALE)
"""A whole CAVP checkpoint to {"video": VideoEncoder, "spec": SpecEncoder}."""
