"""The lowest layer: imports only torch, tensordict and numpy, and is imported by every subpackage."""
