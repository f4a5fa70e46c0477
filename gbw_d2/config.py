"""All config keys of this project with default, unit and meaning.

All other keys are Detectron2's. The defaults train on the source with plain cross-entropy;
adaptation strategies and class weighting are off unless named.
"""

from __future__ import annotations

from collections.abc import Sequence

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.composition import ConfigError, compose, split_words
from gbw_d2.cvrn_keys import add_cvrn_keys
from gbw_d2.key_names import unknown_key, wrong_type
from gbw_d2.mask2former_keys import add_mask2former_keys, add_mask_teacher_keys
from gbw_d2.paths import expanded
from gbw_d2.self_training_keys import add_self_training_keys
from gbw_d2.settings import config_keys
from gbw_d2.weighting import SCHEMES

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

__all__ = ["ConfigError", "add_gbw_config", "load_config"]


def add_gbw_config(cfg: CfgNode) -> None:
    """Adds the keys of this project and of Detectron2's Panoptic-DeepLab to ``cfg``, in place."""
    add_panoptic_deeplab_config(cfg)
    _add_data_keys(cfg)
    _add_model_keys(cfg)
    _add_training_keys(cfg)
    _add_strategy_keys(cfg)
    _add_weighting_keys(cfg)


def _add_data_keys(cfg: CfgNode) -> None:
    # Unlabelled target datasets of adaptation strategies; () = none.
    cfg.DATASETS.TARGET = ()
    # Seed of all random numbers of a run; negative = a random seed, written to the log.
    cfg.SEED = 0
    # Classes that the network predicts: a name of gbw_d2/label_spaces.py, or the path of a
    # data.yaml relative to the datasets' root (docs/your_own_data.md).
    cfg.DATASETS.LABEL_SPACE = "cityscapes_16"
    # Rare class sampling of source images (DAFormer): P(c) = softmax((1 - f_c) / TEMPERATURE).
    cfg.DATASETS.RARE_CLASS_SAMPLING = CfgNode()
    cfg.DATASETS.RARE_CLASS_SAMPLING.ENABLED = False
    cfg.DATASETS.RARE_CLASS_SAMPLING.TEMPERATURE = 0.01
    # A class counts as present in an image if the whole image has more pixels of it than this.
    cfg.DATASETS.RARE_CLASS_SAMPLING.MIN_PIXELS = 3000
    # A crop is redrawn until it shows more than MIN_PIXELS times this number of pixels of the
    # class.
    cfg.DATASETS.RARE_CLASS_SAMPLING.CROP_RATIO = 0.5

    # Cache folder of decoded training images and labels (docs/speed.md); "" = none.
    cfg.DATALOADER.DECODED_CACHE = ""

    cfg.INPUT.FORMAT = "RGB"
    # Training crop (rows, columns) in pixels, after scaling; smaller images are padded.
    cfg.INPUT.CROP_SIZE = (512, 1024)
    # Size (rows, columns) to which whole images are resized first; () = the file's size.
    cfg.INPUT.SOURCE_SIZE = ()
    cfg.INPUT.TARGET_SIZE = ()
    # The same at test time; predictions are always evaluated at the size of the labels.
    cfg.INPUT.TEST_SIZE = ()
    # Range of the random factor by which an image is resized before the crop.
    cfg.INPUT.SCALE_RANGE = (1.0, 1.0)
    # Instead of it: lengths, one of which is drawn for the shorter side, pixels; () = none.
    cfg.INPUT.SOURCE_SHORT_SIDES = ()
    cfg.INPUT.TARGET_SHORT_SIDES = ()
    # Probability of a horizontal flip, 0..1.
    cfg.INPUT.FLIP_PROBABILITY = 0.5
    # A crop is redrawn (at most 10 times) while one class has at least this share of its labelled
    # pixels.
    cfg.INPUT.MAX_CLASS_SHARE = 1.0
    # Strength of random brightness, contrast and saturation; 0 = off.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Standard deviation of the centre heat map's Gaussians, pixels.
    cfg.INPUT.GAUSSIAN_SIGMA = 8
    # Instances with fewer pixels in a crop are ignore regions for RoI heads.
    cfg.INPUT.MIN_INSTANCE_AREA = 0


def _add_model_keys(cfg: CfgNode) -> None:
    # "auto" = cuda if available, else cpu.
    cfg.MODEL.DEVICE = "auto"
    # True: weights may be any pickle, which can execute code; only for files from trusted sources.
    cfg.MODEL.TRUST_WEIGHTS = False
    # Whether MODEL.WEIGHTS may belong to a network with other classes: classifier rows of shared
    # class names are kept, tensors of another shape are initialised anew. Otherwise this is an
    # error.
    cfg.MODEL.REINITIALISE_MISMATCHED = False
    # True: no instance branch is built, and PQ is not computed.
    cfg.MODEL.SEMANTIC_ONLY = False
    # 0 = the label space's number of classes; any other value must equal it.
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 0
    # The only semantic loss is the class-weighted cross-entropy; Detectron2's hard-pixel mining is
    # not available.
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "cross_entropy"
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    # A second semantic head on an earlier feature map, used in training only.
    cfg.MODEL.AUXILIARY_HEAD = CfgNode()
    cfg.MODEL.AUXILIARY_HEAD.ENABLED = False
    cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE = "res4"
    cfg.MODEL.AUXILIARY_HEAD.CHANNELS = 256
    cfg.MODEL.AUXILIARY_HEAD.NORM = "GN"
    cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT = 0.4
    _add_timm_keys(cfg)
    _add_hrda_keys(cfg)
    add_mask2former_keys(cfg)
    # Adds detectron2 Instances to the inference output (masks: one H x W plane each).
    cfg.MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES = False
    cfg.MODEL.PANOPTIC_FPN.PREDICT_INSTANCES = False
    # Rule for merging detections and semantic segmentation: score_order | edaps
    # (gbw_d2/modeling/merging.py).
    cfg.MODEL.PANOPTIC_FPN.COMBINE.RULE = "score_order"
    # Minimum score of a teacher's detection that becomes an instance pseudo-label, 0..1.
    cfg.MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE = 0.75


def _add_timm_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME build_timm_backbone.
    keys = cfg.MODEL.TIMM = CfgNode()
    # A model of timm.list_models(); the tag after a dot chooses between several weights of it.
    keys.NAME = ""
    # Indices of its maps, () = the last of each stride. For a plain transformer these are blocks:
    # one for all levels of its pyramid (() = the last), or one for each level.
    keys.OUT_INDICES = ()
    # Initial weights: False (or None) = random, True = timm's own (downloaded), or a file.
    keys.PRETRAINED = None
    # Further arguments of timm.create_model, as a mapping: {drop_path_rate: 0.1}.
    keys.ARGS = CfgNode(new_allowed=True)
    # Batch norm: FrozenBN (statistics never change) | GN (group norm in its place) | auto: FrozenBN
    # with PRETRAINED, else GN.
    keys.NORM = "auto"
    # True: scales and shifts of frozen batch norms are trained.
    keys.TRAIN_AFFINE = False
    # Norm of the output maps: "" | final (a plain transformer's own last norm) | LN (one per map).
    keys.OUTPUT_NORM = ""
    # Channels of a plain transformer's feature pyramid.
    keys.PYRAMID_CHANNELS = 256
    # True: activations are recomputed in the backward pass, to save memory (gradient
    # checkpointing).
    keys.CHECKPOINTING = False
    # 0 = all is trained, 1 = the stem is frozen, 2 = also the first stage (plain transformers:
    # block), and so on.
    keys.FREEZE_STAGES = 0


def _add_hrda_keys(cfg: CfgNode) -> None:
    # For MODEL.META_ARCHITECTURE GBWHRDA, with the head of MODEL.SEM_SEG_HEAD.
    hrda = cfg.MODEL.HRDA = CfgNode()
    # (rows, columns) of a window at full size, pixels; () = half of INPUT.CROP_SIZE.
    hrda.DETAIL_SIZE = ()
    # Weight of the detail windows' own prediction in the semantic loss, 0..1; lambda_d of the
    # paper.
    hrda.DETAIL_LOSS_SHARE = 0.1
    # Channels of the scale attention's head, a SegFormer head.
    hrda.ATTENTION_CHANNELS = 256


def _add_training_keys(cfg: CfgNode) -> None:
    # SGD, ADAM or ADAMW.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of everything except the backbone, as a multiple of BASE_LR.
    cfg.SOLVER.HEAD_LR_FACTOR = 1.0
    # Learning rate of a backbone's layer as a multiple of that of the next layer, 0..1; 1 = all
    # equal.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Weight decay of an encoder's position tables, class tokens and layer scales; None =
    # WEIGHT_DECAY. Norms and biases have Detectron2's WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS.
    cfg.SOLVER.WEIGHT_DECAY_TABLES = None
    # The same for learned vectors (nn.Embedding), such as queries.
    cfg.SOLVER.WEIGHT_DECAY_EMBEDDINGS = None
    # Iterations between two lines of the log, of metrics.json and of class_weights.csv.
    cfg.SOLVER.LOG_PERIOD = 20
    # Number of newest checkpoints to keep, in addition to the final one; 0 = all.
    cfg.SOLVER.CHECKPOINTS_KEPT = 2
    # Length of the learning-rate schedule, iterations; 0 = that of the run. If longer, the run ends
    # before the rate has reached its end, as in several published codes.
    cfg.SOLVER.LR_ITERS = 0
    # Parts into which each process splits its share of a batch; gradients are averaged over them,
    # so that a batch that needs 8 GPUs fits on one.
    cfg.SOLVER.GRADIENT_ACCUMULATION = 1
    # With SOLVER.AMP.ENABLED: bfloat16, or float16 with a loss scaler.
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.EVAL = CfgNode()
    # Network to evaluate: student, or teacher if the strategy has one.
    cfg.EVAL.WEIGHTS = "student"
    # Names of gbw_d2/evaluation/protocols.py, the leading one first; () = the default ones.
    cfg.EVAL.PROTOCOLS = ()
    # Whether to compute mask AP by pycocotools in addition to PQ; keeps all predicted masks until
    # the end.
    cfg.EVAL.INSTANCE_AP = False
    # Whether to write panoptic predictions to OUTPUT_DIR/predictions in COCO panoptic format (for a
    # second test set, in a folder of its name).
    cfg.TEST.SAVE_PREDICTIONS = False
    # Test images drawn as image | ground truth | prediction at each evaluation; 0 = none.
    cfg.EVAL.PICTURES = 3
    # Number of target images for the label-free criteria at each evaluation (label_free/*;
    # gbw_d2/evaluation/label_free.py), always the same images; 0 = none.
    cfg.EVAL.LABEL_FREE_IMAGES = 0
    # The best checkpoint by this is kept in addition to the last one: a label-free criterion
    # ("label_free/neighbourhood_density"), or a metric of the first test set ("mIoU_16"), which
    # files, log and results.json mark as chosen on target labels. "" = last checkpoint only.
    cfg.EVAL.BEST_ON = ""


def _add_strategy_keys(cfg: CfgNode) -> None:
    cfg.UDA = CfgNode()
    # Adaptation strategy: a name of gbw_d2/uda.
    cfg.UDA.NAME = "source_only"
    # Share of the run, 0..1, with source training only, because the first predictions on the target
    # are useless. (cbst has a stage for it, CBST.WARM_UP.)
    cfg.UDA.WARM_UP = 0.0

    masked = cfg.UDA.MASKED_CONSISTENCY = CfgNode()
    # Weight of the losses on target images with hidden blocks (MIC), for strategies with
    # pseudo-labels (self_training, cbst); 0 = off, 1 in the paper.
    masked.LOSS_WEIGHT = 0.0
    # Side of a block, pixels (a sixteenth of the crop's side in MIC), and the share of hidden
    # blocks.
    masked.BLOCK = 64
    masked.RATIO = 0.7

    entropy = cfg.UDA.MIN_ENTROPY = CfgNode()
    # Weights of the target's mean normalised entropy, for the main head and for the auxiliary head.
    entropy.LOSS_WEIGHT = 0.001
    entropy.AUXILIARY_LOSS_WEIGHT = 0.0002

    squares = cfg.UDA.MAX_SQUARES = CfgNode()
    # Weight of the target's maximum squares loss.
    squares.LOSS_WEIGHT = 0.1
    # Image-wise weighting: exponent 0..1 of a predicted class's share; negative = off.
    squares.IMAGE_WEIGHTING_RATIO = 0.2
    # The factor 1/2: auto (as released: without image weighting only) | always | never.
    squares.HALF = "auto"
    # True: mean over pixels and classes, as released; False: over pixels only, K times as much.
    squares.MEAN_OVER_CLASSES = True
    # True: the auxiliary head is trained on pseudo-labels of both heads' mean (needs
    # MODEL.AUXILIARY_HEAD).
    squares.MULTI_LEVEL = False
    # A pixel has such a pseudo-label if a head predicts a class with more than this probability.
    squares.THRESHOLD = 0.95
    # Weight of that loss, as a multiple of LOSS_WEIGHT.
    squares.AUXILIARY_FACTOR = 0.1

    adversarial = cfg.UDA.ADVERSARIAL = CfgNode()
    # Input of the discriminator: softmax (AdaptSegNet) | self_information (AdvEnt).
    adversarial.INPUT = "softmax"
    # binary_cross_entropy | least_squares.
    adversarial.LOSS = "binary_cross_entropy"
    # Weights of the student's adversarial loss, for the main head and for the auxiliary head.
    adversarial.LOSS_WEIGHT = 0.001
    adversarial.AUXILIARY_LOSS_WEIGHT = 0.0002
    # Channels of the discriminator's first convolution; the next have 2, 4 and 8 times as many.
    adversarial.CHANNELS = 64
    # Adam's learning rate, decayed to 0 over the run by (1 - t / T)^DECAY_POWER, and its betas.
    adversarial.BASE_LR = 0.0001
    adversarial.BETAS = (0.9, 0.99)
    adversarial.DECAY_POWER = 0.9

    add_self_training_keys(cfg)
    add_mask_teacher_keys(cfg)
    add_cvrn_keys(cfg)

    cbst = cfg.UDA.CBST = CfgNode()
    # class_balanced (CBST): a portion of each predicted class | global (ST): of all pixels.
    cbst.POLICY = "class_balanced"
    # Share of the run with source training only; 0 if MODEL.WEIGHTS was already trained on the
    # source.
    cbst.WARM_UP = 0.5
    # Number of rounds of labelling and training, which divide the rest of the run evenly.
    cbst.ROUNDS = 3
    # Learning rate of the first round as a multiple of BASE_LR, and the factor from round to round.
    cbst.LR_FACTOR = 0.2
    cbst.LR_DECAY = 0.7071
    # Portion of the pixels that are labelled in the first round, its growth per round, and its
    # limit.
    cbst.PORTION_START = 0.2
    cbst.PORTION_STEP = 0.05
    cbst.PORTION_MAX = 0.5
    # The same for the portion of the source images that are used (nested subsets).
    cbst.SOURCE_PORTION_START = 1.0
    cbst.SOURCE_PORTION_STEP = 0.0
    cbst.SOURCE_PORTION_MAX = 1.0
    # Portion of the target images that are labelled and used, by class-balanced confidence.
    cbst.TARGET_PORTION = 1.0
    # Minimum number of labelled pixels per predicted class, for any portion.
    cbst.MIN_PIXELS_PER_CLASS = 1
    # Whether to label instances too, by the same rule on their scores (panoptic networks only).
    cbst.INSTANCE_PSEUDO_LABELS = True
    # Weight of the loss on pseudo-labels.
    cbst.LOSS_WEIGHT = 1.0
    # Whether to multiply probabilities by the source's class frequency at each position for
    # labelling.
    cbst.SPATIAL_PRIOR = False
    # Side of the prior's Gaussian kernel as a share of the rows; 70 of GTA5's 1052.
    cbst.PRIOR_KERNEL = 0.0665
    # Probability that a crop is drawn for a rare class; 0 = off, as needed for ST.
    cbst.MINING_PROBABILITY = 0.8
    # Rare classes: those predicted at less than this share of the pixels, or else this number of
    # rarest classes.
    cbst.MINING_SHARE = 0.001
    cbst.MINING_CLASSES = 3
    # none | mrkld | lrent (CRST).
    cbst.REGULARISER = "none"
    # Weight of MRKLD; CRST's code squares its setting 0.1 to 0.01.
    cbst.MRKLD_WEIGHT = 0.01
    # LRENT: soft labels ~ (p_c / t_c)^(1 / alpha).
    cbst.LRENT_ALPHA = 0.25


def _add_weighting_keys(cfg: CfgNode) -> None:
    cfg.WEIGHTING = CfgNode()
    # A name of gbw_d2/weighting/schemes.
    cfg.WEIGHTING.NAME = "none"
    # Heads whose loss is weighted, as a list of the network's heads; None or "all": those for which
    # the scheme is defined. For heads without a classifier, a scheme that measures at a classifier
    # uses the norm of the gradients instead.
    cfg.WEIGHTING.HEADS = None
    # Pairs [head, other head]: the first head takes over the class weights of the second. None: the
    # network's default (offsets take those of centres); []: every head has its own weights.
    cfg.WEIGHTING.WEIGHTS_FROM = None
    # The settings of all schemes (gbw_d2/weighting/schemes); None = the scheme's own default.
    for name in SCHEMES:
        for key in config_keys(SCHEMES.get(name).scheme.Settings):
            cfg.WEIGHTING[key] = None


def _known_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        keys += _known_keys(value, f"{name}.") if isinstance(value, CfgNode) else [name]
    return keys


def _readable(error: Exception, cfg: CfgNode, where: str) -> ConfigError:
    message = " ".join(str(error).strip("'\"").split())
    if "Non-existent" in message:
        # Nested keys are reported in full.
        wrong = message.split(":")[-1].strip().split()[0].rstrip(".")
        return unknown_key(where, wrong, _known_keys(cfg))
    return wrong_type(where, message) or ConfigError(f"{where}: {message}")


def load_config(config_file: str, words: Sequence[str] = ()) -> CfgNode:
    """Reads a YAML file with its ``_BASE_`` files and applies what the command line changes.

    Args:
        config_file: path of the leaf YAML file.
        words: ``axis/name ... KEY VALUE ...``: bases that replace the leaf's, then values of keys.

    Returns:
        the merged, unfrozen config.

    Raises:
        ConfigError: a missing file, an unknown base or key, a wrong type, or YAML that would
            execute code.
    """
    cfg = get_cfg()
    add_gbw_config(cfg)
    choices, overrides = split_words(words)
    content = compose(config_file, choices)
    if content.get("VERSION", cfg.VERSION) != cfg.VERSION:
        raise ConfigError(
            f"{config_file}: VERSION is {content['VERSION']}; expected {cfg.VERSION}, Detectron2's "
            "of today"
        )
    try:
        cfg.merge_from_other_cfg(CfgNode(content))
    except (KeyError, ValueError, AssertionError, AttributeError, TypeError) as error:
        raise _readable(error, cfg, config_file) from error
    if len(overrides) % 2:
        raise ConfigError(
            f"command line: {len(overrides)} words after the options, expected KEY VALUE "
            "pairs; options such as --eval-only come before them"
        )
    try:
        # These keys accept several types, but yacs only accepts that of the previous value.
        if "MODEL.TIMM.PRETRAINED" in overrides[::2]:
            cfg.MODEL.TIMM.PRETRAINED = None
        if "WEIGHTING.HEADS" in overrides[::2]:
            cfg.WEIGHTING.HEADS = None
        cfg.merge_from_list(list(overrides))
    except (KeyError, ValueError, AssertionError) as error:
        raise _readable(error, cfg, "command line") from error
    cfg.OUTPUT_DIR = expanded(cfg.OUTPUT_DIR, "OUTPUT_DIR")
    cfg.MODEL.WEIGHTS = expanded(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    loader = cfg.DATALOADER
    loader.DECODED_CACHE = expanded(loader.DECODED_CACHE, "DATALOADER.DECODED_CACHE")
    if isinstance(cfg.MODEL.TIMM.PRETRAINED, str):
        cfg.MODEL.TIMM.PRETRAINED = expanded(cfg.MODEL.TIMM.PRETRAINED, "MODEL.TIMM.PRETRAINED")
    return cfg
