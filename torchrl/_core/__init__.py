"""Ground floor: needs nothing but torch, tensordict and numpy; every other subpackage may need it."""
