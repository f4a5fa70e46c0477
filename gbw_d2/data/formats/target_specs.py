"""The datasets of a target domain, unlabelled and labelled."""

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
    ``{prefix}_panoptic_val``, ``{prefix}_semantic_val``. The unlabelled dataset has no label
    reader.

    Args:
        prefix: prefix of the names.
        images: returns the records of a split without labels.
        semantic: returns the records of a split for ``read_semantic``.
        panoptic: returns the records of a split for both readers.
        read_semantic: see :class:`DatasetSpec`.
        read_panoptic: see :class:`DatasetSpec`.
        label_space: see :class:`DatasetSpec`.
        prepare: makes all files; see :class:`DatasetSpec`.
        make_labels: makes the label files of a labelled dataset, in place of ``prepare``; called
            with the split and whether with instances.
        check_labels: checks that these files exist or can be made; called likewise.
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

    Names: ``{prefix}_unlabelled_train``, without a label reader, and ``{prefix}_semantic_{split}``.

    Args:
        prefix: prefix of the names.
        load: returns records; called with the split and whether with labels.
        splits: splits that have labels.
        read_semantic: see :class:`DatasetSpec`.
        label_space: see :class:`DatasetSpec`.
        count_images: split -> see :class:`DatasetSpec`.
        prepare: see :class:`DatasetSpec`.
        is_target: whether to make the unlabelled dataset.
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
