"""The benchmark on generated foley clips: does the sound fall where it is seen, and is it the right sound?

Protocol and meaning of every number: docs/foley.md. The clips travel through real mp4 files, as a user's would.
"""

from stav2a_jax.foley_benchmark.judge import RATE as RATE
from stav2a_jax.foley_benchmark.judge import Judge as Judge
from stav2a_jax.foley_benchmark.judge import JudgeConfig as JudgeConfig
from stav2a_jax.foley_benchmark.judge import make_judge as make_judge
from stav2a_jax.foley_benchmark.report import markdown as markdown
from stav2a_jax.foley_benchmark.run import PARTS as PARTS
from stav2a_jax.foley_benchmark.run import Settings as Settings
from stav2a_jax.foley_benchmark.run import run as run
