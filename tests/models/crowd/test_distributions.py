import math

import pyro
import pytest
import torch

from likely.envs import DataError
from likely.models import Annotations, RaggedLabels

TASK, ANNOTATOR, LABEL = [0, 0, 1, 2, 2, 2], ["x", "y", "y", "x", "y", "y"], [0, 2, 1, 1, 1, 0]
K, L = 3, 2


@pytest.fixture(autouse=True)
def _double_and_seeded():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def crowd():
    return Annotations.from_arrays(TASK, ANNOTATOR, LABEL, tasks=[0, 1, 2, 3])


def confusion(*batch):
    return torch.rand(*batch, L, K, K).softmax(-1)


def by_hand(table, truth, labels=LABEL):
    """Log-density of each task by a plain loop."""
    result = [0.0] * 4
    for i, who, label in zip(TASK, ANNOTATOR, labels, strict=True):
        result[i] += math.log(table["xy".index(who), truth[i], label])
    return result


def test_log_density_of_given_truth(crowd):
    table, truth = confusion(), [2, 0, 1, 1]
    d = RaggedLabels(table, crowd, torch.tensor(truth))
    assert (d.batch_shape, d.event_shape, d.support.event_dim) == ((4,), (6,), 1)
    torch.testing.assert_close(d.log_prob(crowd.label), torch.tensor(by_hand(table, truth)))


@pytest.mark.parametrize("shape", [(K, 1), (K, 1, 1), (K, 1, 1, 1)])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0]])
def test_log_density_of_enumerated_truth(crowd, shape, order):
    table = confusion()
    d = RaggedLabels(table, crowd, torch.tensor(order).reshape(shape))
    expected = torch.tensor([by_hand(table, [k] * 4) for k in order]).reshape(*shape[:-1], 4)
    assert d.batch_shape == expected.shape
    torch.testing.assert_close(d.log_prob(crowd.label), expected)


def test_truth_of_as_many_tasks_as_classes_is_not_taken_for_enumerated():
    three = Annotations.from_arrays(TASK, ANNOTATOR, LABEL)
    table = confusion()
    d = RaggedLabels(table, three, torch.arange(3))
    torch.testing.assert_close(d.log_prob(three.label), torch.tensor(by_hand(table, [0, 1, 2])[:3]))


def test_batches_of_tables_and_of_values(crowd):
    table, truth = confusion(5), torch.randint(0, K, (5, 4))
    d = RaggedLabels(table, crowd, truth)
    expected = torch.tensor([by_hand(c, t) for c, t in zip(table, truth, strict=True)])
    torch.testing.assert_close(d.log_prob(crowd.label), expected)
    enumerated = RaggedLabels(table, crowd, torch.arange(K).reshape(K, 1, 1))
    torch.testing.assert_close(
        enumerated.log_prob(crowd.label).gather(0, truth.unsqueeze(0)).squeeze(0), expected
    )
    values = d.sample()
    assert values.shape == (5, 1, 6)
    expected = [
        by_hand(c, t, v.tolist()) for c, t, v in zip(table, truth, values[:, 0], strict=True)
    ]
    torch.testing.assert_close(d.log_prob(values), torch.tensor(expected))


def test_other_labels_than_the_observed_ones(crowd):
    table, truth, other = confusion(), [2, 0, 1, 1], [2, 2, 0, 0, 1, 2]
    d = RaggedLabels(table, crowd, torch.tensor(truth))
    expected = torch.tensor(by_hand(table, truth, other))
    torch.testing.assert_close(d.log_prob(torch.tensor(other)), expected)
    # A view that starts where the observed labels start is not the observed labels.
    torch.testing.assert_close(
        d.log_prob(crowd.label[:1].expand(6)), torch.tensor(by_hand(table, truth, [0] * 6))
    )


def test_samples_have_the_frequencies_of_the_table(crowd):
    table, truth = confusion(), torch.tensor([2, 0, 1, 1])
    d = RaggedLabels(table, crowd, truth)
    assert d.sample().shape == (6,)
    draws = d.sample((20_000,))
    assert draws.shape == (20_000, 1, 6)
    frequency = torch.stack([(draws[:, 0] == j).double().mean(0) for j in range(K)], -1)
    expected = table[crowd.annotator, truth[crowd.task]]
    torch.testing.assert_close(frequency, expected, atol=5 * 0.5 / 20_000**0.5, rtol=0)


def test_expand(crowd):
    d = RaggedLabels(confusion(), crowd, torch.tensor([2, 0, 1, 1]))
    wide = d.expand((7, 4))
    assert wide.batch_shape == (7, 4)
    assert wide.sample().shape == (7, 1, 6)
    torch.testing.assert_close(wide.log_prob(crowd.label), d.log_prob(crowd.label).expand(7, 4))
    with pytest.raises(RuntimeError):
        d.expand((3,))


def test_a_shared_table(crowd):
    table = confusion()[:1]
    shared = RaggedLabels(table, crowd, torch.tensor([2, 0, 1, 1]))
    each = RaggedLabels(table.expand(L, K, K), crowd, torch.tensor([2, 0, 1, 1]))
    torch.testing.assert_close(shared.log_prob(crowd.label), each.log_prob(crowd.label))
    assert shared.sample().shape == (6,)


def test_no_rows(crowd):
    none = crowd.subset(torch.tensor([3]))
    d = RaggedLabels(confusion(), none, torch.arange(K).unsqueeze(-1))
    assert d.log_prob(none.label).tolist() == [[0.0]] * K
    assert d.sample().shape == (K, 1, 0)


def test_shapes_that_do_not_fit(crowd):
    for shape in ((K, K), (3, K, K), (L, K, K + 1)):
        with pytest.raises(DataError, match="confusion: expected shape"):
            RaggedLabels(torch.full(shape, 1 / shape[-1]), crowd, torch.zeros(4, dtype=torch.int64))
    d = RaggedLabels(confusion(), crowd, torch.tensor([2, 0, 1, 1]))
    for value in (crowd.label[:-1], crowd.label.expand(4, 6)):
        with pytest.raises(ValueError, match="value: expected shape"):
            d.log_prob(value)
    with pytest.raises(DataError, match="label: expected indices from 0 to 2, got 0 to 3"):
        d.log_prob(torch.tensor([0, 1, 2, 3, 0, 0]))
    with pytest.raises(ValueError, match=r"Simplex\(\)"):
        RaggedLabels(2 * confusion(), crowd, torch.zeros(4, dtype=torch.int64), validate_args=True)
