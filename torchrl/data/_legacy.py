"""Old names of ``torchrl.data``."""

from torchrl.data.tensor_specs._legacy import OLD as SPECS

OLD = {**SPECS}
