"""Class weighting in plain PyTorch: maps the statistics of a batch to one weight per class."""

from gbw_d2.weighting import schemes  # noqa: F401  fills SCHEMES
from gbw_d2.weighting.classifier_measures import (
    class_hindrance,
    classifier_measure,
    downsample_labels,
)
from gbw_d2.weighting.log import LogEntry, WeightLog
from gbw_d2.weighting.programme import gbw_weights
from gbw_d2.weighting.scheme import (
    FLAGS,
    SCHEMES,
    SchemeEntry,
    StaticScheme,
    WeightingScheme,
    build_scheme,
)
from gbw_d2.weighting.settings import SchemeSettings
from gbw_d2.weighting.shared import SharedWeights
from gbw_d2.weighting.simplex import project_to_box, project_to_simplex, solve_gbw_cvxopt
from gbw_d2.weighting.statistics import (
    ClassStatistics,
    class_statistics,
    element_statistics,
    logit_gradient_norms,
)
from gbw_d2.weighting.without_classifier import WITHOUT_CLASSIFIER, build_scheme_for

__all__ = [
    "FLAGS",
    "SCHEMES",
    "WITHOUT_CLASSIFIER",
    "ClassStatistics",
    "LogEntry",
    "SchemeEntry",
    "SchemeSettings",
    "SharedWeights",
    "StaticScheme",
    "WeightLog",
    "WeightingScheme",
    "build_scheme",
    "build_scheme_for",
    "class_hindrance",
    "class_statistics",
    "classifier_measure",
    "downsample_labels",
    "element_statistics",
    "gbw_weights",
    "logit_gradient_norms",
    "project_to_box",
    "project_to_simplex",
    "solve_gbw_cvxopt",
]
