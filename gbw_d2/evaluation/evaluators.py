"""Detectron2 evaluators for PQ and mIoU, which gather results over processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.class_tables import translated_segments
from gbw_d2.evaluation.instance_ap import InstanceAP, segment_masks
from gbw_d2.evaluation.metric_names import (
    AVERAGE_PRECISION,
    PANOPTIC,
    SEMANTIC,
    has_instance_ap,
)
from gbw_d2.evaluation.panoptic_quality import VOID, PanopticQuality
from gbw_d2.evaluation.prediction_files import PanopticFiles
from gbw_d2.evaluation.protocol_evaluator import ProtocolEvaluator
from gbw_d2.evaluation.protocols import Protocol
from gbw_d2.evaluation.semantic_iou import ConfusionMatrix
from gbw_d2.keys import FILE_NAME, IMAGE_ID, INSTANCES, PANOPTIC_SEG, SEM_SEG
from gbw_d2.label_spaces import LabelSpace, Scoring
from gbw_d2.results.reader import CONFUSION
from gbw_d2.results.writer import write_csv

Record = Mapping[str, Any]
SegmentsInfo = list[dict[str, Any]]
# Column of confusion.csv for pixels that are predicted as none of the scored classes.
NO_CLASS = "no class"


class SemanticEvaluator(ProtocolEvaluator):
    """mIoU, mean recall and mean precision under each protocol.

    Metrics: ``mIoU_16``, ``recall_16``, ``precision_16``, ``mIoU_classes_16`` and so on.
    After :meth:`evaluate`, ``per_class`` holds the scores by protocol and class name, and
    ``confusion`` the confusion matrix of the whole test set.

    Args:
        read_semantic: reads a record's class ids of ``scoring.space``, (H, W) uint8, 255 = ignore.
        scoring: how the classes of network and test set meet.
        protocols: which scores, see :mod:`gbw_d2.evaluation.protocols`; the leading one first.
        output_dir: folder for ``semantic_per_image.csv`` and ``confusion.csv`` (pixels, truth x
            prediction); None to write nothing.
    """

    task = "semantic"

    def __init__(
        self,
        read_semantic: Callable[[Record], np.ndarray],
        scoring: Scoring,
        protocols: Sequence[Protocol],
        output_dir: str | Path | None = None,
    ) -> None:
        super().__init__(scoring, protocols, output_dir)
        self.read_semantic = read_semantic
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self.confusion = ConfusionMatrix(self.space)
        self.per_image = []
        self.per_class = {}

    def _score_image(self, record: Record, output: Mapping[str, Any]) -> dict[str, Any]:
        logits: torch.Tensor = output[SEM_SEG]
        if logits.dim() != 3 or logits.shape[0] != self.network.num_classes:
            raise ValueError(
                f"'{SEM_SEG}' must be ({self.network.num_classes}, H, W) logits for this label "
                f"space, got shape {tuple(logits.shape)}"
            )
        classes = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
        gt = self.read_semantic(record)
        _check_sizes(classes, gt)
        image = self.confusion.update(self.table[classes], gt)
        return {
            f"mIoU_{p.name}": _times(self.confusion.compute(p, image)["mIoU"], p.factor)
            for p in self.protocols
        }

    def _states(self) -> np.ndarray:
        return self.confusion.state

    def _merge(self, states: list[np.ndarray]) -> None:
        self.confusion.reset()
        for state in states:
            self.confusion.merge(state)

    def _average(self) -> dict[str, float | None]:
        metrics: dict[str, float | None] = {}
        for protocol in self.protocols:
            scores = self.confusion.compute(protocol)
            for key in SEMANTIC:
                metrics[f"{key}_{protocol.name}"] = _times(scores[key], protocol.factor)
            metrics[f"mIoU_classes_{protocol.name}"] = scores["classes"]
            self.per_class[protocol.name] = {
                self.space.class_names[t]: {"train_id": t, **row}
                for t, row in scores["per_class"].items()
            }
        if self.output_dir is not None:
            columns = (*self.space.class_names, NO_CLASS)
            write_csv(
                self.output_dir / CONFUSION,
                [
                    {"truth": name, **dict(zip(columns, row, strict=True))}
                    for name, row in zip(columns, self.confusion.state.tolist(), strict=False)
                ],
            )
        return metrics


class PanopticEvaluator(ProtocolEvaluator):
    """PQ, SQ and RQ of all classes, things and stuff under each protocol.

    Metrics: ``PQ_16``, ``SQ_th_16``, ``RQ_st_16_void``, ``PQ_classes_16`` and so on; with
    ``instance_ap`` also ``AP_16``, ``AP50_16`` and ``AP_classes_16``, under the protocols that
    neither turn ground truth into void nor serve compatibility. After :meth:`evaluate`,
    ``per_class`` holds the scores by protocol and class name.

    Args:
        read_panoptic: reads a record's segments: ((H, W) int32 segment ids, 0 = void; COCO
            ``segments_info`` with ``id``, ``category_id`` = class id of ``scoring.space``,
            ``iscrowd``).
        scoring: how the classes of network and test set meet.
        protocols: which scores, see :mod:`gbw_d2.evaluation.protocols`; the leading one first.
        output_dir: folder for ``panoptic_per_image.csv``; None to write nothing.
        save_predictions: folder of :class:`PanopticFiles`; None to write no predictions.
        instance_ap: whether to compute AP by pycocotools too, of the output's ``instances`` if
            there are any, else of the panoptic map's things with their ``score``.
    """

    task = "panoptic"

    def __init__(
        self,
        read_panoptic: Callable[[Record], tuple[np.ndarray, SegmentsInfo]],
        scoring: Scoring,
        protocols: Sequence[Protocol],
        output_dir: str | Path | None = None,
        *,
        save_predictions: str | Path | None = None,
        instance_ap: bool = False,
    ) -> None:
        super().__init__(scoring, protocols, output_dir)
        self.read_panoptic = read_panoptic
        self.instance_ap = instance_ap
        self._files = (
            None if save_predictions is None else PanopticFiles(save_predictions, self.space)
        )
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        # Segments are matched once per set of void classes; averaging needs no new matching.
        self._quality = {
            _matching(p): PanopticQuality(panoptic_categories(self.space)) for p in self.protocols
        }
        self._instances = InstanceAP(self.space.thing_ids)
        self._annotations: list[dict[str, Any]] = []
        self.per_image = []
        self.per_class = {}

    def _score_image(self, record: Record, output: Mapping[str, Any]) -> dict[str, Any]:
        seg, class_segments = output[PANOPTIC_SEG]
        pred_map, pred_segments = self._in_scored_space(seg.cpu().numpy(), class_segments)
        gt_map, gt_segments = self.read_panoptic(record)
        _check_sizes(pred_map, gt_map)
        images = {}
        for (void, void_is), quality in self._quality.items():
            pred = pred_map, pred_segments
            if void_is is not None:
                pred = _void_to_class(*pred, self.space.id_of[void_is])
            truth = _make_void(gt_map, gt_segments, [self.space.id_of[name] for name in void])
            images[void, void_is] = quality.update(*pred, *truth)
        if self.instance_ap:
            found = self._found_instances(output, pred_map, pred_segments)
            self._instances.update(str(record[FILE_NAME]), found, gt_map, gt_segments)
        if self._files is not None:
            image_id = str(record[IMAGE_ID])
            self._annotations.append(self._files.add(image_id, pred_map, pred_segments))
        scores: dict[str, Any] = {}
        for p in self.protocols:
            result = self._quality[_matching(p)].compute(p.ids(self.space), images[_matching(p)])
            for key in ("PQ", "SQ", "RQ"):
                scores[f"{key}_{p.name}"] = _times(result[key], p.factor)
        return scores

    def _in_scored_space(
        self, pred_map: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> tuple[np.ndarray, SegmentsInfo]:
        for s in segments:
            self._scored_id(int(s["category_id"]), f"segment {s['id']}")
        kept = [
            {
                "id": int(s["id"]),
                "category_id": int(s["category_id"]),
                **{key: s[key] for key in ("score",) if key in s},
            }
            for s in segments
        ]
        return translated_segments(
            pred_map, kept, self.table, self.space.is_thing, self.network.is_thing
        )

    def _scored_id(self, class_id: int, what: str) -> int:
        """Returns the id of a predicted class in the evaluated label space, or 255."""
        if not 0 <= class_id < self.network.num_classes:
            raise ValueError(
                f"predicted {what} has category_id {class_id}, which is no class id of this label "
                "space"
            )
        return int(self.table[class_id])

    def _found_instances(
        self, output: Mapping[str, Any], pred_map: np.ndarray, pred_segments: SegmentsInfo
    ) -> list[tuple[dict[str, Any], int, float]]:
        if INSTANCES in output:
            instances = output[INSTANCES].to("cpu")
            columns = (
                (segment_masks(mask.numpy(), [1])[0] for mask in instances.pred_masks),
                (self._scored_id(c, "instance") for c in instances.pred_classes.tolist()),
                instances.scores.tolist(),
            )
            return list(zip(*columns, strict=True))
        things = [s for s in pred_segments if self.space.is_thing[s["category_id"]]]
        if not all("score" in s for s in things):
            raise ValueError(
                "instance AP needs a 'score' in each segment of the panoptic map, or 'instances' "
                "in the model's output"
            )
        masks = segment_masks(pred_map, [s["id"] for s in things])
        return [
            (mask, s["category_id"], float(s["score"]))
            for mask, s in zip(masks, things, strict=True)
        ]

    def _states(self) -> tuple[list[np.ndarray], list[Any], list[Any]]:
        counted = [quality.state for quality in self._quality.values()]
        return counted, self._instances.images, self._annotations

    def _merge(self, states: list[tuple[list[np.ndarray], list[Any], list[Any]]]) -> None:
        for i, quality in enumerate(self._quality.values()):
            quality.reset()
            for counted, _, _ in states:
                quality.merge(counted[i])
        self._instances.images = [image for _, images, _ in states for image in images]
        self._annotations = [row for _, _, annotations in states for row in annotations]

    def _average(self) -> dict[str, float | None]:
        metrics: dict[str, float | None] = {}
        for protocol in self.protocols:
            result = self._quality[_matching(protocol)].compute(protocol.ids(self.space))
            for key in PANOPTIC:
                metrics[f"{key}_{protocol.name}"] = _times(result[key], protocol.factor)
            metrics[f"PQ_classes_{protocol.name}"] = result["classes"]
            self.per_class[protocol.name] = {
                self.space.class_names[t]: {"train_id": t, **_none_where_absent(row)}
                for t, row in result["per_class"].items()
            }
        if self.instance_ap:
            metrics |= self._average_instances()
        if self._files is not None:
            self._files.finish(self._annotations)
        return metrics

    def _average_instances(self) -> dict[str, float | None]:
        per_class = self._instances.compute()
        metrics: dict[str, float | None] = {}
        for protocol in self.protocols:
            if not has_instance_ap(protocol):
                continue
            rows = {t: per_class[t] for t in protocol.ids(self.space) if t in per_class}
            for t, row in rows.items():
                self.per_class[protocol.name][self.space.class_names[t]] |= row
            for key in AVERAGE_PRECISION:
                known = [value for row in rows.values() if (value := row[key]) is not None]
                metrics[f"{key}_{protocol.name}"] = float(np.mean(known)) if known else None
                metrics[f"AP_classes_{protocol.name}"] = len(known)
        return metrics


def panoptic_categories(space: LabelSpace) -> list[dict[str, Any]]:
    """Returns the COCO categories of a label space; ids are class ids."""
    return [
        {"id": i, "name": c.name, "isthing": int(c.is_thing)} for i, c in enumerate(space.classes)
    ]


def _matching(protocol: Protocol) -> tuple[tuple[str, ...], str | None]:
    return protocol.void_classes, protocol.void_is


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _void_to_class(
    pred_map: np.ndarray, pred_segments: SegmentsInfo, class_id: int
) -> tuple[np.ndarray, SegmentsInfo]:
    """Adds void pixels to a class's segment, as in EDAPS' code, where void and road are both 0."""
    void = pred_map == VOID
    if not void.any():
        return pred_map, pred_segments
    found = [s["id"] for s in pred_segments if s["category_id"] == class_id]
    new = max((s["id"] for s in pred_segments), default=0) + 1
    segment = found[0] if found else new
    added = [] if found else [{"id": new, "category_id": class_id, "iscrowd": 0}]
    return np.where(void, segment, pred_map), [*pred_segments, *added]


def _none_where_absent(row: dict[str, Any]) -> dict[str, Any]:
    if row["TP"] + row["FP"] + row["FN"]:
        return row
    return row | {"PQ": None, "SQ": None, "RQ": None}


def _make_void(
    gt_map: np.ndarray, gt_segments: SegmentsInfo, void_ids: Sequence[int]
) -> tuple[np.ndarray, SegmentsInfo]:
    kept = [s for s in gt_segments if s["category_id"] not in void_ids]
    if len(kept) == len(gt_segments):
        return gt_map, gt_segments
    gone = [s["id"] for s in gt_segments if s["category_id"] in void_ids]
    return np.where(np.isin(gt_map, gone), VOID, gt_map), kept


def _check_sizes(pred: np.ndarray, gt: np.ndarray) -> None:
    if pred.shape != gt.shape:
        raise ValueError(
            f"the prediction is {_size(pred)}, the ground truth {_size(gt)} (height x width); the "
            "record's 'height' and 'width' must be those of the ground truth"
        )


def _size(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape))
