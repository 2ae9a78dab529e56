"""In a notebook: progress, curves and films
==========================================

A notebook is where many agents are trained first. Training shows its progress there, and what came out
of it can be seen below the cell.

What you will learn:

- how training shows its progress below a cell, with ipywidgets and without;
- how to stop a run and go on with it;
- how to see a learning curve and a film of the agent where you are.

Three minutes to read, a quarter of a minute to run. It needs ``pip install "torchrl[rendering]"`` and
Jupyter. Like every tutorial it is a script, and a notebook in ``tutorials/notebooks``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Video

import torchrl
from torchrl.trainers import read_run

runs = Path(tempfile.mkdtemp())

# %%
# Progress
# --------
#
# A bar below the cell shows the frames, the time left, the frames per second and the latest
# returns. Nothing has to be installed for it: without ``ipywidgets`` it is a line of text that is
# redrawn in place, and its last state is kept in the notebook. With ``pip install ipywidgets`` it is a
# widget: prettier while it runs, but who opens the saved notebook without a kernel sees a bar at
# zero. ``progress_bar=False`` turns it off.

settings = {"eval_interval": 2_048, "final_episodes": 0, "video": False}
agent = torchrl.train("ppo", "CartPole-v1", total_frames=4_096, log_dir=runs, **settings)

# %%
# The stop button of the notebook is Ctrl-C: the run saves its state and the cell ends with
# ``KeyboardInterrupt``. ``torchrl.resume(folder)`` goes on from there, with the same numbers as if it
# had not been stopped.
#
# A curve
# -------
#
# The numbers of the run are CSV files in its folder; ``read_run`` reads them all.

run = read_run(runs / "ppo_CartPole-v1_seed0")
frames, returns = run.metrics["train/episode_return"].T
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(frames, returns)
axes.set(xlabel="frames", ylabel="return", title="Returns of the episodes of each batch")
plt.show()

# %%
# A film
# ------
#
# The agent plays an episode; ``embed=True`` puts the film into the notebook, so that it is still
# there when the file is not. A file ``.gif`` is shown by ``IPython.display.Image``.

print(agent.evaluate(10).mean > 40)  # True
film = agent.record(runs / "episode.mp4", max_steps=200)
Video(film, embed=True)

# %%
# Read next:
#
# - :doc:`jupyter_workers`: worker processes that are started from a notebook;
# - :doc:`trainers_command_line`: what else is in the folder of a run;
# - :doc:`evaluation`: what a number such as the one above is worth.
