"""The one-line trainer learns within seconds; `make scores-small` trains all algorithms to the end."""

import torchrl


def test_ppo_balances_the_pole():
    agent = torchrl.train(
        "ppo", "CartPole-v1", total_frames=8_000, seed=0, log_dir="", eval_interval=10**9, progress_bar=False
    )
    assert agent.evaluate(20).mean > 150  # random play: 22
