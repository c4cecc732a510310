"""Document-masked attention: a position sees its own document only, and what that means for bags."""

from dataclasses import replace

import torch
from training import TINY_MODEL

import tst_titan.train.titan  # noqa: F401
from tst_titan.train.titan.components import document_positions

EOS = 0


def test_positions_start_anew_after_each_end() -> None:
    tokens = torch.tensor([[5, EOS, 7, 8, EOS, EOS, 9, 4], [1, 2, 3, 4, 5, 6, 7, EOS]])
    assert document_positions(tokens, EOS).tolist() == [[0, 1, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_bag_belongs_to_the_document_that_ends_in_it() -> None:
    """Bag 1 holds the end of the first document and the start of the second; bag 2 is where the second starts."""
    bags = torch.tensor([[[5, 6, 7], [8, EOS, 9], [4, 4, 4], [3, 3, EOS], [2, 2, 2]]])
    assert document_positions(bags, EOS).tolist() == [[0, 1, 0, 1, 0]]


@torch.no_grad()
def test_logits_are_those_of_each_document_alone() -> None:
    from tst_titan.train.titan.models import model_spec

    shape = replace(TINY_MODEL, vocab_size=64)
    models = {}
    for attention in ("document", "causal"):
        with torch.device("meta"):
            model = model_spec(shape, seq_len=64, seed=3, attention=attention).model.build()
        model.to_empty(device="cpu")
        model.init_weights(buffer_device=None)
        models[attention] = model.eval()
    lengths = [10, 1, 25, 28]
    tokens = torch.randint(1, 64, (1, 64), generator=torch.Generator().manual_seed(1))
    tokens[0, torch.tensor(lengths).cumsum(0) - 1] = EOS
    positions = document_positions(tokens, EOS)
    packed = models["document"](
        tokens, positions=positions, attention_masks=models["document"].get_attention_masks(positions)
    )
    alone = [models["causal"](document) for document in tokens.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)
    # And the mask matters: without it the second document would see the first.
    assert not torch.allclose(packed[:, 11:], models["causal"](tokens)[:, 11:], atol=1e-3)
