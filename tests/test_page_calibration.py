import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from imgnet_mini.reporting.page.calibration import calibrate, confidence_chart, reliability_chart
from imgnet_mini.runs.predictions import Predictions


def make(confidence, right):
    top = np.where(right, 0, 1)[:, None]
    confidence = np.asarray(confidence, float)
    images = [f"{place}.png" for place in range(len(top))]
    return Predictions(images, ("a", "b"), np.zeros(len(top), int), top, confidence[:, None])


@pytest.fixture
def network():
    """Predictions of an overconfident network."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.05, 1, 5000)
    return confidence, generator.random(5000) < confidence**2


def test_bins_are_those_of_scikit_learn(network):
    confidence, right = network
    filled = [entry for entry in calibrate(make(confidence, right)).bins if entry.images]
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    np.testing.assert_allclose([entry.accuracy for entry in filled], accuracy)
    np.testing.assert_allclose([entry.confidence for entry in filled], mean)


def test_the_error_is_the_sum_of_guo_and_others_worked_out_bin_by_bin(network):
    confidence, right = network
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / len(confidence) * gap
    found = calibrate(make(confidence, right))
    assert found.ece == pytest.approx(expected, abs=1e-12)
    assert found.ece > 0.1
    assert found.confidence - found.accuracy == pytest.approx(found.ece, abs=0.01)


def test_by_hand():
    # Two of three at 0.9 are right, none of one at 0.4: |2/3 - 0.9| * 3/4 + |0 - 0.4| / 4
    found = calibrate(make([0.9, 0.9, 0.9, 0.4], [True, True, False, False]))
    assert found.ece == pytest.approx(0.9 * 3 / 4 - 2 / 4 + 0.1)


@pytest.mark.parametrize("confidence", [0.0, 1 / 15, 0.2, 1.0])
def test_an_edge_belongs_to_the_bin_below(confidence):
    bins = calibrate(make([confidence], [True])).bins
    (found,) = [entry for entry in bins if entry.images]
    assert found.low < confidence <= found.high or confidence == found.low == 0
    assert sum(entry.images for entry in bins) == 1


def test_bars_are_as_high_as_the_shares_and_read_out(network):
    calibration = calibrate(make(*network))
    chart = reliability_chart(calibration)
    bars = [box for box in chart.boxes if box.style == "bar-fill"]
    filled = [entry for entry in calibration.bins if entry.images]
    heights = [bar.height for bar in bars]
    np.testing.assert_allclose(heights, [222 * entry.accuracy for entry in filled], atol=0.11)
    assert [readout.values[0] for readout in chart.readouts] == [
        f"{100 * entry.accuracy:.1f} %" for entry in filled
    ]
    counts = [int(r.values[0].replace(",", "")) for r in confidence_chart(calibration).readouts]
    assert sum(counts) == 5000
