"""The datasets of a target: without labels, and with those of its splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from gbw_d2.data.spec import DatasetSpec, LabelWork, PanopticReader, Record, SemanticReader
from gbw_d2.label_spaces import LabelSpace


def target_specs(
    prefix: str,
    images: Callable[[str], list[Record]],
    semantic: Callable[[str], list[Record]],
    panoptic: Callable[[str], list[Record]],
    read_semantic: SemanticReader,
    read_panoptic: PanopticReader,
    label_space: LabelSpace,
    prepare: Callable[[], None] | None = None,
    make_labels: LabelWork | None = None,
    check_labels: LabelWork | None = None,
    ignore_rows: tuple[float, float] = (0.0, 0.0),
    count_images: Callable[[str], int] | None = None,
) -> Iterator[DatasetSpec]:
    """Makes the unlabelled target, the labelled training set (oracle) and the test set.

    Names: ``{prefix}_unlabelled_train``, ``{prefix}_panoptic_train``, ``{prefix}_semantic_train``,
    ``{prefix}_panoptic_val``, ``{prefix}_semantic_val``. The unlabelled one has no reader at all.

    Args:
        prefix: of the names.
        images: split -> records without labels.
        semantic: split -> records for ``read_semantic``.
        panoptic: split -> records for both readers.
        read_semantic: see :class:`DatasetSpec`.
        read_panoptic: see :class:`DatasetSpec`.
        label_space: see :class:`DatasetSpec`.
        prepare: makes everything; see :class:`DatasetSpec`.
        make_labels: split, whether with instances -> makes the label files of a labelled dataset;
            instead of ``prepare``.
        check_labels: the same -> looks whether they are there or can be made.
        ignore_rows: see :class:`DatasetSpec`.
        count_images: split -> see :class:`DatasetSpec`.
    """
    yield DatasetSpec(
        f"{prefix}_unlabelled_train",
        partial(images, "train"),
        prepare=prepare,
        ignore_rows=ignore_rows,
    )
    for split in ("train", "val"):
        for kind, load, reader in (
            ("panoptic", panoptic, read_panoptic),
            ("semantic", semantic, None),
        ):
            make, check = (
                work and partial(work, split, reader is not None)
                for work in (make_labels, check_labels)
            )
            name = f"{prefix}_{kind}_{split}"
            yield DatasetSpec(
                name,
                partial(load, split),
                read_semantic,
                reader,
                prepare or make,
                check,
                label_space=label_space,
                ignore_rows=ignore_rows,
                count_images=count_images and partial(count_images, split),
            )


def semantic_specs(
    prefix: str,
    load: Callable[[str, bool], list[Record]],
    splits: Iterable[str],
    read_semantic: SemanticReader,
    label_space: LabelSpace,
    count_images: Callable[[str], int],
    prepare: Callable[[], None] | None = None,
    is_target: bool = True,
) -> Iterator[DatasetSpec]:
    """Makes the datasets of a target without instances.

    Names: ``{prefix}_unlabelled_train``, which has no reader, and ``{prefix}_semantic_{split}``.

    Args:
        prefix: of the names.
        load: split, whether its records name labels -> records.
        splits: that have labels.
        read_semantic: see :class:`DatasetSpec`.
        label_space: see :class:`DatasetSpec`.
        count_images: split -> see :class:`DatasetSpec`.
        prepare: see :class:`DatasetSpec`.
        is_target: False leaves the unlabelled one out.
    """
    if is_target:
        images = partial(load, "train", False)
        yield DatasetSpec(f"{prefix}_unlabelled_train", images, prepare=prepare)
    for split in splits:
        yield DatasetSpec(
            f"{prefix}_semantic_{split}",
            partial(load, split, True),
            read_semantic,
            prepare=prepare,
            label_space=label_space,
            count_images=partial(count_images, split),
        )
