"""Records of one step, and policies compiled to functions of them."""
