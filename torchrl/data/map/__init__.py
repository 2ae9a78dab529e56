"""Maps of tensordicts, hashes, and trees of trajectories."""

from torchrl.data.map.forest import MCTSForest
from torchrl.data.map.hash import BinaryToDecimal, HashToInt, RandomProjectionHash, SipHash
from torchrl.data.map.query import QueryModule
from torchrl.data.map.tensordict_map import TensorDictMap, TensorMap
from torchrl.data.map.tree import Tree

__all__ = [
    "BinaryToDecimal",
    "HashToInt",
    "MCTSForest",
    "QueryModule",
    "RandomProjectionHash",
    "SipHash",
    "TensorDictMap",
    "TensorMap",
    "Tree",
]
