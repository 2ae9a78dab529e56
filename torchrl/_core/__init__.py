"""Ground floor: needs only torch, tensordict and numpy; every other subpackage may need it."""
