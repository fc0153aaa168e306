"""How well features tell classes apart: a linear probe, and nearest neighbours.

Both are trained on features of the training side and tested on those of the validation side. They look at a
pre-training; nothing is selected by them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Nearest neighbours that vote, and the temperature of their votes (DINO).
NEIGHBOURS, TEMPERATURE = 20, 0.07
#: Weight of the linear probe's squared weights.
_L2 = 1e-3
_ITERATIONS = 200


def linear_probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Mean recall over the classes (UAR) of logistic regression on standardized features, 0 to 1. Deterministic.

    Args:
        train: [n, D] features.
        train_labels: int64 [n] class indices.
        test: [m, D].
        test_labels: int64 [m].
    """
    train, test = _standardize(train.double(), test.double())
    classes = int(train_labels.max()) + 1
    weights = torch.zeros(train.shape[1] + 1, classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(train @ weights[:-1] + weights[-1], train_labels)
        loss = loss + _L2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return _mean_recall((test @ weights[:-1] + weights[-1]).argmax(1), test_labels)


def nearest_neighbours(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """The same of a vote of the nearest training clips by cosine similarity. Arguments as of `linear_probe`."""
    train, test = _standardize(train.double(), test.double())
    similarity = functional.normalize(test) @ functional.normalize(train).T
    nearest = similarity.topk(min(NEIGHBOURS, len(train)), dim=1)
    votes = functional.one_hot(train_labels[nearest.indices]).double() * (nearest.values / TEMPERATURE).exp()[..., None]
    return _mean_recall(votes.sum(1).argmax(1), test_labels)


def _mean_recall(predicted: Tensor, labels: Tensor) -> float:
    """Over the classes that occur."""
    recalls = [(predicted[labels == label] == label).double().mean() for label in labels.unique()]
    return float(torch.stack(recalls).mean())


def _standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return (train - mean) / std, (test - mean) / std
