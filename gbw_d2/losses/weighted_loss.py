"""The base class of every class-weighted loss: a module with one head's weighting scheme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from gbw_d2.weighting.log import LogEntry, WeightLog
from gbw_d2.weighting.scheme import WeightingScheme
from gbw_d2.weighting.statistics import ClassStatistics


class WeightedLoss(nn.Module):
    """A loss of one head whose classes are weighted by a scheme.

    A subclass computes its statistics and its loss in ``forward``, and gets the weights from
    ``class_weights`` in between. The loss is held beside the network and not inside it: its state
    is a separate entry of a checkpoint, and copies of the network (the teacher) lack it.

    Args:
        scheme: built for as many classes as there are ``class_ids``; used by this head alone.
        class_ids: class id of each weight, in order; None for all classes of the scheme.
        num_classes: K, all classes of the label space; None for the scheme's number.
        head: name of the head, for logs and errors.
        ignore_index: label of elements without a class; None for ``default_ignore_index``.

    Attributes:
        has_softmax: whether the loss is a softmax cross-entropy over the classes, so that a focal
            factor and logit adjustment are defined.
        default_ignore_index: label of elements without a class, unless another one is given.

    Raises:
        ValueError: a scheme that is not defined for this loss.
    """

    has_softmax = False
    default_ignore_index = 255

    def __init__(
        self,
        scheme: WeightingScheme,
        class_ids: Sequence[int] | None = None,
        num_classes: int | None = None,
        head: str = "loss",
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        self.scheme = scheme
        self.class_ids = tuple(range(scheme.num_classes) if class_ids is None else class_ids)
        self.num_classes = scheme.num_classes if num_classes is None else num_classes
        self.head = head
        self.ignore_index = self.default_ignore_index if ignore_index is None else ignore_index
        if scheme.num_classes != len(self.class_ids):
            raise ValueError(
                f"scheme '{scheme.name}' was built for {scheme.num_classes} classes; head '{head}' "
                f"has {len(self.class_ids)}"
            )
        if not self.has_softmax:
            check_without_softmax(scheme)

    def class_weights(
        self, statistics: ClassStatistics, term: str, log: WeightLog | None
    ) -> Tensor:
        """Returns the weights (K,) of a batch, and logs them with the statistics behind them.

        Args:
            statistics: of the batch, over this head's classes.
            term: which images the loss comes from; see ``gbw_d2.keys``.
            log: receives the entry, or None.
        """
        weights = self.scheme.weights(statistics, term, log)
        if log is not None:
            counts, measure = statistics.counts, statistics.measure
            entry = LogEntry(self.class_ids, weights, counts, measure, statistics.summed)
            log.add(self.head, term, entry)
        return weights


def check_without_softmax(scheme: WeightingScheme) -> None:
    """Checks that a scheme needs no classifier, no softmax and no logits to adjust.

    Raises:
        ValueError: it measures something at a classifier, adjusts logits, or is the focal loss.
    """
    if scheme.needs_classifier:
        raise ValueError(
            f"scheme '{scheme.name}' measures at a classifier, but this head has none; set the "
            "measure to 'norm'"
        )
    if scheme.needs_softmax:
        raise ValueError(
            f"scheme '{scheme.name}' is not defined for this head: it scales a cross-entropy by "
            "the probability at the label; take the head out, or use another scheme"
        )
    if scheme.settings.knows_prior_shift:
        raise ValueError(
            "logit_adjustment or pseudo_label_adjustment is set, but this head has no softmax over "
            "classes whose logits could be adjusted; leave them 0"
        )


def in_order(
    losses: Mapping[str, WeightedLoss], calls: Mapping[str, Callable[[], Tensor]]
) -> dict[str, Tensor]:
    """Computes the losses of several heads; heads whose weights others take over come first.

    Args:
        losses: head name -> its loss module.
        calls: head name -> computes the loss.

    Returns:
        head name -> loss, in the order of ``calls``.
    """
    # A head that takes over weights needs those of a head with its own weights.
    order = sorted(calls, key=lambda head: losses[head].scheme.shares_with is not None)
    values = {head: calls[head]() for head in order}
    return {head: values[head] for head in calls}
