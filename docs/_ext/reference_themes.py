"""The pages of the API reference and the themes on them, each with the modules whose names it lists.

A prefix is a module that defines names, or with "=" the path of one name. The longest one that fits wins.
"""

from __future__ import annotations

from typing import Any

SECTIONS: dict[str, dict[str, Any]] = {
    "torchrl": {
        "title": "torchrl: train in one line",
        "intro": "train, resume and use agents; helpers of scripts.",
        "themes": {
            "Agents": ("torchrl.trainers.agent", "torchrl.trainers.training"),
            "Before and after training": ("torchrl.trainers.explain", "torchrl.trainers.doctor"),
            "Helpers of scripts": ("torchrl._core.script_tools", "torchrl._core.timing", "=torchrl.logger"),
            "Command line": ("torchrl.cli",),
        },
    },
    "torchrl.envs": {
        "title": "torchrl.envs: environments",
        "intro": "environments of other libraries and your own, many of them side by side, and the steps between.",
        "themes": {
            "Base classes": ("torchrl.envs.base", "torchrl.envs.gym_like", "torchrl.envs.model_based.common"),
            "Gymnasium": ("torchrl.envs.libs.gym",),
            "Other libraries": ("torchrl.envs.libs", "torchrl.envs.wrapper"),
            "In plain torch": ("torchrl.envs.custom", "torchrl.envs.model_based.dreamer"),
            "Many environments": ("torchrl.envs.batched", "torchrl.envs.env_creator"),
            "Groups of agents": ("torchrl.envs.marl",),
            "Steps and checks": ("torchrl.envs.check", "torchrl._core.mdp", "torchrl.envs"),
            "Exploration": (
                "torchrl._core.exploration",
                "=torchrl.envs.ExplorationType",
                "=torchrl.envs.exploration_type",
            ),
        },
    },
    "torchrl.envs.transforms": {
        "title": "torchrl.envs.transforms: transforms",
        "intro": "what changes observations, rewards, actions and episodes, in environments and in replay buffers.",
        "themes": {
            "Base classes": (
                "torchrl.envs.transforms.base",
                "torchrl.envs.transforms.compose",
                "torchrl.envs.transforms.transformed_env",
                "torchrl.envs.transforms.elementwise",
            ),
            "Presets": ("torchrl.envs.transforms.presets",),
            "Observations": ("torchrl.envs.transforms.observation",),
            "Pixels": ("torchrl.envs.transforms.observation.pixels",),
            "Normalisation": ("torchrl.envs.transforms.observation.normalization",),
            "Rewards": ("torchrl.envs.transforms.reward",),
            "Actions": ("torchrl.envs.transforms.action",),
            "Episodes": ("torchrl.envs.transforms.episode",),
            "Types and devices": ("torchrl.envs.transforms.casting",),
            "Replay buffers": ("torchrl.envs.transforms.buffer",),
        },
    },
    "torchrl.data": {
        "title": "torchrl.data: replay buffers and specs",
        "intro": "specs, replay buffers, trajectories and datasets.",
        "themes": {
            "Replay buffers": ("torchrl.data.replay_buffers",),
            "Samplers": ("torchrl.data.replay_buffers.samplers", "torchrl.data.replay_buffers.sample_units"),
            "Storages": ("torchrl.data.replay_buffers.storages",),
            "Writers": ("torchrl.data.replay_buffers.writers",),
            "Buffers in other processes": ("torchrl.data.replay_buffers.remote",),
            "Annealing": ("torchrl.data.replay_buffers.scheduler",),
            "Buffers on disk": ("torchrl.data.replay_buffers.checkpointers", "torchrl.data.replay_buffers.ted_layouts"),
            "Datasets": ("torchrl.data.datasets",),
            "Trajectories": (
                "torchrl.data.trajectories",
                "torchrl.data.trajectory_query",
                "torchrl.data.postprocs",
                "torchrl.data.replay_buffers.samplers.episodes",
            ),
            "Specs": ("torchrl.data.tensor_specs",),
            "Maps, hashes and trees": ("torchrl.data.map",),
            "Other": ("torchrl.data.random_policy", "torchrl.data.utils"),
        },
    },
    "torchrl.modules": {
        "title": "torchrl.modules: networks and policies",
        "intro": "networks, distributions, policies, value functions, exploration and planners.",
        "themes": {
            "From an environment": ("torchrl.modules.builders",),
            "Policies and value functions": (
                "torchrl.modules.tensordict_module.actors",
                "torchrl.modules.tensordict_module.qvalue",
                "torchrl.modules.tensordict_module.policy_wrappers",
                "torchrl.modules.tensordict_module.decision_transformer",
            ),
            "Modules with specs": ("torchrl.modules.tensordict_module", "=torchrl.modules.EnsembleModule"),
            "Exploration": ("torchrl.modules.tensordict_module.exploration", "torchrl.modules.models.exploration"),
            "Recurrence": (
                "torchrl.modules.tensordict_module.rnn",
                "torchrl.modules.tensordict_module.rnn_cells",
                "torchrl._core.recurrence",
                "torchrl.modules.utils",
            ),
            "Networks": ("torchrl.modules.models",),
            "Groups of agents": ("torchrl.modules.models.multiagent",),
            "World models": ("torchrl.modules.models.model_based",),
            "Distributions": (
                "torchrl.modules.distributions",
                "=torchrl.modules.AddStateIndependentNormalScale",
                "=torchrl.modules.NormalParamExtractor",
                "=torchrl.modules.biased_softplus",
                "=torchrl.modules.inv_softplus",
                "=torchrl.modules.mappings",
                "=torchrl.modules.distributions_maps",
            ),
            "Normalisation of value targets": ("torchrl.modules.value_norm",),
            "Planners and tree search": ("torchrl.modules.planners", "torchrl.modules.mcts"),
        },
    },
    "torchrl.collectors": {
        "title": "torchrl.collectors: collectors",
        "intro": "batches of experience from environments and a policy, in this process or in others; evaluation.",
        "themes": {
            "Collectors": ("torchrl.collectors",),
            "Clusters": ("torchrl.collectors.distributed",),
            "Evaluation": ("torchrl.collectors.evaluator",),
            "Weights": ("=torchrl.collectors.VanillaWeightUpdater", "=torchrl.collectors.WeightUpdaterBase"),
        },
    },
    "torchrl.objectives": {
        "title": "torchrl.objectives: losses",
        "intro": "one loss an algorithm, target networks, and what losses are made of.",
        "themes": {
            "Base class": ("torchrl.objectives.common",),
            "Policy gradients": ("torchrl.objectives.a2c", "torchrl.objectives.ppo", "torchrl.objectives.reinforce"),
            "Values of discrete actions": ("torchrl.objectives.dqn",),
            "Actor-critics off policy": (
                "torchrl.objectives.ddpg",
                "torchrl.objectives.td3",
                "torchrl.objectives.sac",
                "torchrl.objectives.redq",
                "torchrl.objectives.crossq",
                "torchrl.objectives.tqc",
            ),
            "Offline data and imitation": (
                "torchrl.objectives.bc",
                "torchrl.objectives.cql",
                "torchrl.objectives.iql",
                "torchrl.objectives.decision_transformer",
                "torchrl.objectives.gail",
                "=torchrl.objectives.TD3BCLoss",
            ),
            "Groups of agents": ("torchrl.objectives.multiagent",),
            "World models and curiosity": ("torchrl.objectives.dreamer", "torchrl.objectives.rnd"),
            "Target networks and optimizers": ("torchrl.objectives.networks", "torchrl.objectives.optimizers"),
            "Parts of losses": ("torchrl.objectives", "torchrl._core.math", "torchrl._core.keys"),
        },
    },
    "torchrl.objectives.value": {
        "title": "torchrl.objectives.value: advantages and returns",
        "intro": "modules and pure functions that turn rewards and values into advantages and value targets.",
        "themes": {
            "Value estimators": ("torchrl.objectives.value",),
            "By name": ("torchrl.objectives.value.registry",),
            "Pure functions": ("torchrl._core.returns",),
        },
    },
    "torchrl.trainers": {
        "title": "torchrl.trainers: the training loop",
        "intro": "the training loop, its hooks, and what is read from runs afterwards.",
        "themes": {
            "The loop": ("torchrl.trainers.trainer", "torchrl.trainers.run_folder"),
            "Hooks": ("torchrl.trainers.hooks",),
            "Diagnosis": ("torchrl.trainers.dead_units", "torchrl.trainers.q_values", "=torchrl.trainers.doctor"),
            "Runs and plots": ("torchrl.trainers.plots", "torchrl.trainers.runs", "=torchrl.trainers.Evaluation"),
        },
    },
    "torchrl.trainers.algorithms": {
        "title": "torchrl.trainers.algorithms: algorithms",
        "intro": "the settings, the builder and the trainer of each algorithm.",
        "themes": {
            "What algorithms share": (
                "torchrl.trainers.algorithms",
                "torchrl.trainers.algorithms.off_policy",
                "torchrl.trainers.algorithms.on_policy",
                "torchrl.trainers.algorithms.offline",
            ),
            "On policy": (
                "torchrl.trainers.algorithms.a2c",
                "torchrl.trainers.algorithms.impala",
                "torchrl.trainers.algorithms.ppo",
                "torchrl.trainers.algorithms.reinforce",
            ),
            "Off policy, discrete actions": (
                "torchrl.trainers.algorithms.dqn",
                "torchrl.trainers.algorithms.discrete_sac",
                "torchrl.trainers.algorithms.qr_dqn",
            ),
            "Off policy, continuous actions": (
                "torchrl.trainers.algorithms.crossq",
                "torchrl.trainers.algorithms.ddpg",
                "torchrl.trainers.algorithms.redq",
                "torchrl.trainers.algorithms.sac",
                "torchrl.trainers.algorithms.td3",
                "torchrl.trainers.algorithms.tqc",
            ),
            "Offline data": (
                "torchrl.trainers.algorithms.bc",
                "torchrl.trainers.algorithms.cql",
                "torchrl.trainers.algorithms.decision_transformer",
                "torchrl.trainers.algorithms.iql",
                "torchrl.trainers.algorithms.offline_to_online",
                "torchrl.trainers.algorithms.td3_bc",
            ),
        },
    },
    "torchrl.record": {
        "title": "torchrl.record: loggers and videos",
        "intro": "loggers of numbers, texts and videos, recorders of environments, the record of an experiment.",
        "themes": {
            "Loggers": ("torchrl.record.loggers",),
            "Videos and data": ("torchrl.record.recorder",),
            "Experiments": ("torchrl.record.experiment",),
        },
    },
    "torchrl.weight_update": {
        "title": "torchrl.weight_update: weights for workers",
        "intro": "how the policies of collectors get the weights that a learner computes.",
        "themes": {
            "Schemes": ("torchrl.weight_update.sync_schemes",),
            "Senders and receivers": ("torchrl.weight_update",),
        },
    },
    "torchrl.checkpoint": {
        "title": "torchrl.checkpoint: checkpoints",
        "intro": "weights, optimizers, buffers, settings and random generators, saved and loaded together.",
        "themes": {
            "Checkpoints": ("torchrl.checkpoint", "torchrl._core.generators"),
            "Adapters": ("torchrl.checkpoint.adapters",),
            "Types": (
                "=torchrl.checkpoint.CheckpointBest",
                "=torchrl.checkpoint.CheckpointFormat",
                "=torchrl.checkpoint.CheckpointMetricMode",
                "=torchrl.checkpoint.CheckpointStrictness",
                "=torchrl.checkpoint.StateDictFormat",
            ),
        },
    },
    "torchrl.testing": {
        "title": "torchrl.testing: contract checks",
        "intro": "checks that every implementation of a part passes: the library's, and yours.",
        "themes": {
            "Checks": ("torchrl.testing",),
            "Reports": ("torchrl.testing.report", "torchrl._core.records.capabilities"),
        },
    },
}
