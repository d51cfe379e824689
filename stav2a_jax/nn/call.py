"""Calling a module with its own parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from stav2a_jax.types import Params


def apply(module: nn.Module, params: Params, *args: Any, **kwargs: Any) -> Any:
    """``module.apply({"params": params}, ...)``: no collection but the parameters exists in this package."""
    return module.apply({"params": params}, *args, **kwargs)
