"""Windows out of the toolkit's data loader."""

import pytest
import torch

from unicuco_plugin.errors import CalibrationError
from unicuco_plugin.modifiers.toolkit.windows import gather_windows


def test_samples_of_one_length_are_the_windows():
    ids = torch.arange(12).view(3, 4)
    assert torch.equal(gather_windows([{"input_ids": ids[:2]}, {"input_ids": ids[2:]}]), ids)


def test_padded_samples_are_joined_and_cut_to_the_longest():
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    assert gather_windows([batch]).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "calibration data must have at least one sample, got none; llm-compressor reads columns text or .*"),
        ([{"pixel_values": torch.zeros(1)}], "calibration data must have input_ids, got pixel_values"),
    ],
)
def test_data_without_token_ids_is_refused(batches, message):
    with pytest.raises(CalibrationError, match=f"^{message}$"):
        gather_windows(batches)
