"""Class weighting on plain torch: statistics of a batch in, one weight per class out."""

from gbw_d2.weighting import schemes  # noqa: F401  fills SCHEMES
from gbw_d2.weighting.classifier_measures import (
    class_hindrance,
    classifier_measure,
    downsample_labels,
)
from gbw_d2.weighting.gbw import gbw_weights
from gbw_d2.weighting.scheme import (
    SCHEMES,
    SchemeEntry,
    StaticScheme,
    WeightingScheme,
    build_scheme,
)
from gbw_d2.weighting.settings import WeightingSettings
from gbw_d2.weighting.shared import SharedWeights
from gbw_d2.weighting.simplex import project_to_box, project_to_simplex, solve_gbw_cvxopt
from gbw_d2.weighting.statistics import (
    ClassStatistics,
    class_statistics,
    element_statistics,
    logit_gradient_norms,
)

__all__ = [
    "SCHEMES",
    "ClassStatistics",
    "SchemeEntry",
    "SharedWeights",
    "StaticScheme",
    "WeightingScheme",
    "WeightingSettings",
    "build_scheme",
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
