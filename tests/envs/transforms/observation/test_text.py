"""Text as tokens, and back."""

import pytest
import torch
from tensordict import NonTensorStack, TensorDict

from torchrl.data import Composite, NonTensor, Unbounded
from torchrl.envs import Tokenizer, TransformedEnv
from torchrl.testing.mocks import TextEnv
from torchrl.testing.transform import World


class Letters:
    vocab_size = 128

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, tokens):
        return "".join(map(chr, tokens))


def padded(text, length):
    return [ord(letter) for letter in text[:length]] + [0] * (length - len(text))


def test_text_becomes_tokens_of_one_length():
    tokenizer = Tokenizer(["text"], ["tokens"], tokenizer=Letters(), max_length=4, mask_keys=["real"])
    words = ["a", "abcd", "abcdef", ""]
    record = TensorDict(text=NonTensorStack(*words), batch_size=[4])
    out = tokenizer(record)
    assert out["tokens"].tolist() == [padded(word, 4) for word in words]
    assert out["real"].sum(-1).tolist() == [1, 4, 4, 0]
    assert out["text"] == words
    longest = Tokenizer(["text"], tokenizer=Letters())(record)
    assert longest["text"].shape == (4, 6)


def test_rows_of_rows():
    stack = NonTensorStack(NonTensorStack("ab", "c"), NonTensorStack("d", "efg"))
    record = TensorDict(text=stack, batch_size=[2, 2])
    out = Tokenizer(["text"], ["tokens"], tokenizer=Letters())(record)
    assert out["tokens"].tolist() == [[padded("ab", 3), padded("c", 3)], [padded("d", 3), padded("efg", 3)]]


@pytest.mark.parametrize("batch_size", [(), (2,), (2, 2)])
def test_tokens_become_text(batch_size):
    tokens = torch.tensor(padded("ab", 4)).expand(*batch_size, 4)
    back = Tokenizer(in_keys_inv=["text"], out_keys_inv=["tokens"], tokenizer=Letters())
    found = back.inv(TensorDict(tokens=tokens, batch_size=batch_size))
    text = found["text"]
    while isinstance(text, list):
        text = text[-1]
    assert text == "ab"
    same = Tokenizer(in_keys_inv=["x"], tokenizer=Letters())
    assert same.inv(TensorDict(x=tokens[..., :], batch_size=batch_size)).get("x") is not None


class Echo(World):
    """Says how long the text was that it was given."""

    def __init__(self):
        super().__init__()
        self.action_spec = Composite(text=NonTensor(example_data="a"))
        self.observation_spec = Composite(length=Unbounded((1,)))

    def _reset(self, tensordict, **kwargs):
        return TensorDict(length=torch.zeros(1))

    def _step(self, tensordict):
        length = torch.tensor([float(len(tensordict["text"]))])
        return TensorDict(length=length, reward=length, done=torch.zeros(1, dtype=torch.bool))


def test_an_environment_of_text_takes_tokens():
    tokenizer = Tokenizer(in_keys_inv=["text"], out_keys_inv=["tokens"], tokenizer=Letters(), max_length=5)
    env = TransformedEnv(Echo(), tokenizer)
    assert env.action_keys == ["tokens"]
    assert env.action_spec.shape == (5,)
    root = env.reset().set("tokens", torch.tensor(padded("abc", 5)))
    assert env.step(root)["next", "length"] == 3


def test_an_environment_of_text_shows_tokens():
    env = TextEnv()
    name = next(
        key for key in env.observation_spec.keys(True, True) if isinstance(env.observation_spec[key], NonTensor)
    )
    seen = TransformedEnv(env, Tokenizer([name], ["tokens"], tokenizer=Letters(), max_length=6, mask_keys=["real"]))
    batch = seen.rollout(3)
    assert batch["tokens"].shape == batch["real"].shape == (3, 6)
    assert seen.observation_spec["tokens"].is_in(batch["tokens"][0])
    assert seen.observation_spec["real"].shape == (6,)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(TypeError, match=r"needs a tokenizer; expected .*encode\(text\)"):
        Tokenizer(["text"], tokenizer=3)
    with pytest.raises(ValueError, match="as many mask_keys as texts"):
        Tokenizer(["text"], tokenizer=Letters(), mask_keys=["a", "b"])
