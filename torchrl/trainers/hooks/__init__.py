"""What may happen in a training loop, one kind a file; ``torchrl.trainers`` has them all."""
