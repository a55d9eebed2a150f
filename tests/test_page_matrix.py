import numpy as np
import pytest

from helpers.pages import open_data_uri
from imgnet_mini.reporting.page.matrix import matrix_picture


@pytest.mark.parametrize("size", [2, 250, 251, 1000])
def test_a_single_error_is_seen_in_a_matrix_of_any_size(size):
    counts = np.diag(np.full(size, 50))
    without = np.asarray(open_data_uri(matrix_picture(counts), "png"))
    counts[size - 1, 0] = 1
    pixels = np.asarray(open_data_uri(matrix_picture(counts), "png"))
    assert pixels.shape[0] == pixels.shape[1] <= 250
    assert without[-1, 0, 3] == 0
    assert pixels[-1, 0, 3] > 60
    assert (pixels[..., 3].diagonal() == 255).sum() >= len(pixels) - 1
