"""From training to deployment
===========================

A trained policy leaves the training script: for another script, for a server without this library,
for a robot without PyTorch. What must go with the weights is easy to forget: the normalisation of
observations, the form of actions, the memory of a recurrent policy.

What you will learn:

- how an :class:`~torchrl.trainers.Agent` is saved, and loaded in a fresh process;
- how it becomes a program for ``torch.export``, and for ONNX;
- how to show that the program acts as the agent does;
- who keeps the state of a recurrent policy, and when it is reset.

Five minutes to read, a minute to run. It needs ``pip install "torchrl[export]" onnxruntime``.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import torchrl

folder = tempfile.TemporaryDirectory()
place = Path(folder.name)
quiet = {"log_dir": "", "progress_bar": False, "final_episodes": 0, "eval_interval": 10**9}
agent = torchrl.train("ppo", "CartPole-v1", total_frames=8_192, seed=0, normalize_observations=True, **quiet)

# %%
# Which form do I choose?
# -----------------------
#
# ==============================  ==============================================  ===================
# Form                            For                                             Needs
# ==============================  ==============================================  ===================
# ``agent.save("x.agent")``       scripts that evaluate, film, go on with it      torchrl
# ``agent.export("torch", ...)``  servers that have PyTorch, on CPU or GPU        torch
# ``agent.export("onnx", ...)``   everything else: C++, browsers, robots, phones  an ONNX runtime
# ==============================  ==============================================  ===================
#
# A fresh process
# ---------------
#
# The file of an agent holds weights, statistics of the normalisation, specs and settings, as tensors
# and text. Nothing is pickled: loading a file from an unknown source runs none of its code, and the script
# that loads it needs none of the classes of the script that trained.
#
# ``predict`` takes an observation as the task returns it, or a batch of them, and returns actions as
# the task takes them. The second result is the state of a policy with memory; here there is none.

agent.save(place / "cartpole.agent")
script = f"""
import torchrl
agent = torchrl.Agent.load({str(place / "cartpole.agent")!r})
print(agent.predict([0.0, 0.5, 0.02, -0.3]), agent.evaluate(5).mean)
"""
answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
here = f"{agent.predict([0.0, 0.5, 0.02, -0.3])} {agent.evaluate(5).mean}"
print(answer.strip() == here)  # True

# %%
# A program for PyTorch
# ---------------------
#
# ``export`` traces the deterministic policy, from the raw observation to the action, and writes a
# program in the format of :func:`torch.export.load`. The batch size is free. The process that runs it
# never imports torchrl.

observations = np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32)
np.save(place / "observations.npy", observations)
agent.export("torch", place / "cartpole.pt2")
script = f"""
import sys
import numpy as np
import torch
program = torch.export.load({str(place / "cartpole.pt2")!r}).module()
(actions,) = program(torch.from_numpy(np.load({str(place / "observations.npy")!r})))
np.save({str(place / "actions.npy")!r}, actions.numpy())
print("torchrl" in sys.modules)
"""
answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
print(answer.strip(), (np.load(place / "actions.npy") == agent.predict(observations)[0]).all())  # False True

# %%
# A program for everything else
# -----------------------------
#
# ONNX is a file format for networks with runtimes for most languages and chips. Inputs and outputs are
# named after the entries; actions are numbers of choices, not one-hot.

import onnxruntime

session = onnxruntime.InferenceSession(str(agent.export("onnx", place / "cartpole.onnx")))
print([each.name for each in session.get_inputs() + session.get_outputs()])  # ['observation', 'action']
(actions,) = session.run(None, {"observation": observations})
print((actions == agent.predict(observations)[0]).all())  # True

# %%
# Compare, always, on observations that the policy will meet: a thousand actions that agree are worth
# more than a file that loads. Then measure, on the machine that will run it. One decision at a time
# here, the median of three hundred:

from time import perf_counter

program = torch.export.load(place / "cartpole.pt2").module()
one = observations[:1]
ways = {
    "Agent.predict": lambda: agent.predict(one),
    "torch.export": lambda: program(torch.from_numpy(one)),
    "onnxruntime": lambda: session.run(None, {"observation": one}),
}
times = {}
for name, act in ways.items():
    taken = []
    for _ in range(300):
        start = perf_counter()
        act()
        taken.append(perf_counter() - start)
    times[name] = 1e6 * np.median(taken)

from matplotlib import pyplot as plt

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
bars = axes.barh(list(times), list(times.values()))
axes.bar_label(bars, fmt="%.0f µs", padding=4)
axes.set(xlabel="microseconds for one decision", xscale="log", xlim=(1, 5 * max(times.values())))
print(times["onnxruntime"] < times["Agent.predict"])  # True

# %%
# A policy with memory
# --------------------
#
# A recurrent policy needs, at each step, what it remembered from the last one. In training,
# transforms and collectors carry it. After that it is the caller's: ``predict`` returns the state, and
# takes it at the next call; ``None`` begins an episode.

recurrent = torchrl.train("ppo", "CartPole-v1", total_frames=2_048, seed=0, recurrent="gru", **quiet)
first, second = observations[:2]
action, state = recurrent.predict(first)
action, state = recurrent.predict(second, state=state)
print(state["recurrent_state"].shape)  # torch.Size([1, 64])

# %%
# The program has the state as inputs and outputs, each output ``next_<name>`` for the input
# ``<name>``. ``is_init`` says which rows begin an episode: their state is ignored. A service that
# plays many episodes at once therefore keeps one state for each, and sets one flag.

path = recurrent.export("onnx", place / "recurrent.onnx")
session = onnxruntime.InferenceSession(str(path))
inputs = {each.name: each.shape for each in session.get_inputs()}
outputs = [each.name for each in session.get_outputs()]
print(list(inputs))  # ['observation', 'is_init', 'recurrent_state']
print(outputs)  # ['action', 'next_recurrent_state']

memory = {name: np.zeros((1, *shape[1:]), np.float32) for name, shape in inputs.items() if f"next_{name}" in outputs}
agreed = True
agents_state = None
for number, observation in enumerate(observations[:50]):
    begins = number in (0, 20)  # two episodes
    entries = {"observation": observation[None], "is_init": np.array([[begins]]), **memory}
    found = dict(zip(outputs, session.run(None, entries), strict=True))
    memory = {name: found[f"next_{name}"] for name in memory}
    action, agents_state = recurrent.predict(observation, state=None if begins else agents_state)
    agreed &= bool(found["action"][0] == action)
print(agreed)  # True

# %%
# What is *not* in a program: exploration, for it is the deterministic policy; the critic; and
# transforms of the task that you built yourself, such as the ones that resize pictures, for an
# agent learns from what the task returns. Do them where the observations come from.

folder.cleanup()

# %%
# Read next
# ---------
#
# - :doc:`evaluation`: is it good enough to be deployed?
# - :doc:`observation_statistics`: the normalisation that goes with the weights;
# - :doc:`recurrent_ppo`: policies with memory.
