"""What a run remembers: rows, repeated rows, who remembers what."""

import pytest
import torch

from inure import memory
from inure.methods import PGDAT
from inure.penalties import TAIL, TemporalEnsembling
from inure.recipe.recipe import Recipe


def test_rows_are_replaced_and_of_a_repeated_row_the_first_values_are_kept():
    rows = memory.new_rows(5, 2, device="cpu")
    assert rows.shape == (6, 2)
    values = torch.arange(8.0).view(4, 2)
    memory.write_rows(rows, torch.tensor([3, 1, 3, 0]), values)
    assert rows[:5].tolist() == [[6, 7], [2, 3], [0, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_writing_equals_writing_one_after_the_other_backwards(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, values = torch.randint(6, (12,), generator=generator), torch.randn(12, 3, generator=generator)
    ours, slow = memory.new_rows(6, 3, device="cpu"), torch.zeros(7, 3)
    memory.write_rows(ours, rows, values)
    for row, value in reversed([*zip(rows, values, strict=True)]):
        slow[row] = value
    assert torch.equal(ours[:6], slow[:6])


def test_what_is_written_is_detached_and_takes_the_type_of_the_memory():
    rows = memory.new_rows(3, 2, device="cpu", dtype=torch.float16)
    memory.write_rows(rows, torch.tensor([1]), torch.ones(1, 2, requires_grad=True))
    assert not rows.requires_grad
    assert rows.dtype == torch.float16
    assert rows[1].tolist() == [1, 1]


def test_one_process_is_everywhere():
    values = torch.randn(3, 2)
    assert memory.everywhere(values) is values


def test_a_memory_holds_the_class_counts_and_what_each_piece_wants():
    facts = memory.facts_of(torch.tensor([0, 2, 2, 1]), 4, (1, 8, 8), 2, "cpu")
    assert facts.class_counts.tolist() == [1, 1, 2, 0]
    recipe = Recipe(method=PGDAT(), penalties=[TemporalEnsembling(), TAIL()])
    begun = memory.begin(recipe, facts)
    assert {name: tuple(value.shape) for name, value in begun.items()} == {
        "class_counts": (4,),
        "temporal_ensembling.predictions": (5, 4),
    }
    assert memory.end_epoch(recipe, begun) == {}


def test_a_checkpoint_is_taken_over_in_place():
    kept = {"a": torch.zeros(2), "b": torch.ones(1)}
    a = kept["a"]
    memory.restore(kept, {"a": torch.tensor([3.0, 4.0])})
    assert kept["a"] is a
    assert a.tolist() == [3, 4]
