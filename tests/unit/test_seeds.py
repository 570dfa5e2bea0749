"""Numbers of examples, draws and passes come from hashes, which stay what they are: recorded results depend on them."""

import numpy as np
import pytest
import torch
from torch import nn

from attriflow.engine.dropout import example_key
from attriflow.engine.variants import _uniform
from attriflow.evaluation.changes import OtherTarget, random_parameters
from attriflow.methods._draws import generator
from attriflow.methods.random import example_seed
from attriflow.types import Example, Token

EXAMPLE = Example(
    source=(Token(text="a", id=7, segment="source"),),
    target=tuple(Token(text="b", id=i) for i in (3, 1, 4, 1, 5)),
    start=2,
    stop=5,
)


@pytest.mark.parametrize(
    ("seed", "of_dropout", "of_random", "of_a_draw"),
    [
        (0, -5805773666452348211, 4990633673725235861, 18314964469249964714),
        (1, 2773299605789708851, 6420120881566546066, 1641190496713257419),
        (3, 3634105574786582340, 7440865390995865102, 11927134389542974792),
    ],
)
def test_of_examples(seed, of_dropout, of_random, of_a_draw):
    assert example_key(seed, EXAMPLE) == of_dropout
    assert example_seed(seed, EXAMPLE) == of_random
    assert generator(seed, EXAMPLE, "lime").bit_generator.seed_seq.entropy == of_a_draw


@pytest.mark.parametrize(("block", "draw", "seed"), [("target", 3, 3551592681), ("source", 0, 3176742951)])
def test_of_soft_variants(block, draw, seed):
    expected = np.random.default_rng(seed).random((3, 2), dtype=np.float32)
    assert torch.equal(_uniform(block, draw, (3, 2)), torch.from_numpy(expected))


def test_of_other_targets():
    order = torch.randperm(50, generator=torch.Generator().manual_seed(232757177988216))
    assert torch.equal(OtherTarget(lambda forward: forward.logits, 3, True)._others(50)[order], order.roll(-1))


def test_of_random_parameters():
    layer = nn.Linear(3, 2, bias=False).double()
    weight = layer.weight.detach().float()
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(191687350657761))
    with random_parameters(layer, 1.0, 2):
        assert torch.equal(layer.weight, (drawn * weight.std(correction=0) + weight.mean()).double())
