"""The ablation ladder: the rows of the paper's Table III, trained with equal budgets and scored on generated clips."""

from stav2a_jax.ablation.ladder import Ladder as Ladder
from stav2a_jax.ablation.table import markdown as markdown
