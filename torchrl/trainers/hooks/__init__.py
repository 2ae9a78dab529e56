"""Hooks of the training loop; ``torchrl.trainers`` exports them."""
