"""What a run remembers: rows written once, restored in place."""

import torch

from inure.memory import CLASS_COUNTS, begin, facts_of, new_rows, restore, write_rows
from inure.recipe import Recipe


def test_rows_are_replaced_and_the_others_stay():
    memory = new_rows(5, 2, device="cpu")
    assert memory.shape == (6, 2)
    write_rows(memory, torch.tensor([3, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert memory[:5].tolist() == [[3, 4], [0, 0], [0, 0], [1, 2], [0, 0]]


def test_of_a_row_that_comes_twice_the_first_values_are_kept():
    memory = new_rows(3, device="cpu")
    write_rows(memory, torch.tensor([2, 1, 2, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert memory[:3].tolist() == [0, 2, 1]


def test_every_run_remembers_how_many_examples_a_class_has():
    facts = facts_of(torch.tensor([0, 2, 2]), 4, (1, 8, 8), 2, "cpu")
    assert begin(Recipe(), facts)[CLASS_COUNTS].tolist() == [1, 0, 2, 0]
    assert (facts.examples, facts.num_classes, facts.device.type) == (3, 4, "cpu")


def test_a_checkpoint_is_taken_over_in_place():
    tensor = torch.zeros(2)
    memory = {"a": tensor}
    restore(memory, {"a": torch.ones(2)})
    assert memory["a"] is tensor
    assert tensor.tolist() == [1, 1]
