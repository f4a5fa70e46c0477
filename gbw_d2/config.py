"""Every config key of this project: its default, its unit and its meaning, one line each.

Keys that are not here are Detectron2's own. The defaults train on the source with plain
cross-entropy: strategies and weighting are asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from gbw_d2 import compat  # noqa: F401  (repairs come before Detectron2)
from gbw_d2.composition import ConfigError, compose, split_words
from gbw_d2.cvrn_keys import add_cvrn_keys
from gbw_d2.key_names import unknown_key
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
    # Datasets without labels that adaptation strategies learn from; () = none.
    cfg.DATASETS.TARGET = ()
    # Every random draw of a run follows from this; negative = drawn anew and written to the log.
    cfg.SEED = 0
    # What the network predicts: a name of gbw_d2/label_spaces.py, or the path of a data.yaml below
    # the datasets' root (docs/your_own_data.md).
    cfg.DATASETS.LABEL_SPACE = "cityscapes_16"
    # Rare class sampling of source images (DAFormer): P(c) = softmax((1 - f_c) / TEMPERATURE).
    cfg.DATASETS.RARE_CLASS_SAMPLING = CfgNode()
    cfg.DATASETS.RARE_CLASS_SAMPLING.ENABLED = False
    cfg.DATASETS.RARE_CLASS_SAMPLING.TEMPERATURE = 0.01
    # A class counts as present in an image from this many pixels on (whole image).
    cfg.DATASETS.RARE_CLASS_SAMPLING.MIN_PIXELS = 3000
    # A crop is drawn again until it shows MIN_PIXELS times this many pixels of the class.
    cfg.DATASETS.RARE_CLASS_SAMPLING.CROP_RATIO = 0.5

    # Folder of decoded training images and labels, made as they are drawn (docs/speed.md); "": none
    cfg.DATALOADER.DECODED_CACHE = ""

    cfg.INPUT.FORMAT = "RGB"
    # Training crop (rows, columns) in pixels, after scaling; smaller images are padded.
    cfg.INPUT.CROP_SIZE = (512, 1024)
    # Size (rows, columns) that a whole image is brought to before anything else; () = as on disk.
    cfg.INPUT.SOURCE_SIZE = ()
    cfg.INPUT.TARGET_SIZE = ()
    # The same at test time; predictions are always scored at the size of the labels.
    cfg.INPUT.TEST_SIZE = ()
    # Range of the random factor by which an image is resized before the crop.
    cfg.INPUT.SCALE_RANGE = (1.0, 1.0)
    # In its place: lengths of which one is drawn for the shorter side, pixels; () = none.
    cfg.INPUT.SOURCE_SHORT_SIDES = ()
    cfg.INPUT.TARGET_SHORT_SIDES = ()
    # Probability of a horizontal flip, 0..1.
    cfg.INPUT.FLIP_PROBABILITY = 0.5
    # A crop is drawn again (10 times at most) while one class covers more than this share of it.
    cfg.INPUT.MAX_CLASS_SHARE = 1.0
    # Strength of random brightness, contrast and saturation; 0 = off.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Standard deviation of the centre heat map's Gaussians, pixels.
    cfg.INPUT.GAUSSIAN_SIGMA = 8
    # Instances of which a crop shows fewer pixels are ignore regions for RoI heads.
    cfg.INPUT.MIN_INSTANCE_AREA = 0


def _add_model_keys(cfg: CfgNode) -> None:
    # "auto" = cuda where there is one, else cpu.
    cfg.MODEL.DEVICE = "auto"
    # True: weights may be any pickle, which can run code; only for files whose source you trust.
    cfg.MODEL.TRUST_WEIGHTS = False
    # Whether MODEL.WEIGHTS may be of a network of other classes: rows of shared names are kept,
    # what has another shape is started anew. Else that is an error.
    cfg.MODEL.REINITIALISE_MISMATCHED = False
    # True: no instance branch is built and no PQ is asked for.
    cfg.MODEL.SEMANTIC_ONLY = False
    # 0 = the label space's number; anything else must equal it.
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 0
    # Our one semantic loss is the class-weighted cross-entropy; hard-pixel mining is Detectron2's.
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "cross_entropy"
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    # A second semantic head on an earlier feature map, for training only.
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
    # How detections and semantics become one map: score_order | edaps (gbw_d2/modeling/merging.py).
    cfg.MODEL.PANOPTIC_FPN.COMBINE.RULE = "score_order"
    # Score from which on a teacher's detection is an instance to learn from, 0..1.
    cfg.MODEL.PANOPTIC_FPN.PSEUDO_LABEL_SCORE = 0.75


def _add_timm_keys(cfg: CfgNode) -> None:
    # For MODEL.BACKBONE.NAME build_timm_backbone.
    keys = cfg.MODEL.TIMM = CfgNode()
    # A model of timm.list_models(); what follows a dot chooses between several weights of it.
    keys.NAME = ""
    # Numbers of its maps, () = the last of each stride. Of a plain transformer they are blocks: one
    # for all levels of its pyramid (() = the last), or one for each level.
    keys.OUT_INDICES = ()
    # Initial weights: False (or None) = random, True = timm's own, which are downloaded, or a file.
    keys.PRETRAINED = None
    # What else timm.create_model is given, as a mapping: {drop_path_rate: 0.1}.
    keys.ARGS = CfgNode(new_allowed=True)
    # Batch norm: FrozenBN (statistics never change) | GN (group norm in its place) | auto: FrozenBN
    # with PRETRAINED, else GN.
    keys.NORM = "auto"
    # True: scales and shifts of frozen batch norms are learned.
    keys.TRAIN_AFFINE = False
    # Norm on what comes out: "" | final (a plain transformer's own last norm) | LN (one per map).
    keys.OUTPUT_NORM = ""
    # Channels of the pyramid that a plain transformer gets.
    keys.PYRAMID_CHANNELS = 256
    # True: intermediate results are computed again in the backward pass, for less memory.
    keys.CHECKPOINTING = False
    # 1 = the stem is not trained, 2 = nor the first stage (plain transformers: block), and so on.
    keys.FREEZE_STAGES = 0


def _add_hrda_keys(cfg: CfgNode) -> None:
    # For MODEL.META_ARCHITECTURE GBWHRDA, around whatever MODEL.SEM_SEG_HEAD says.
    hrda = cfg.MODEL.HRDA = CfgNode()
    # (rows, columns) of a window at full size, pixels; () = half of INPUT.CROP_SIZE.
    hrda.DETAIL_SIZE = ()
    # Share of the semantic loss that the windows' own prediction has, 0..1; lambda_d of the paper.
    hrda.DETAIL_LOSS_SHARE = 0.1
    # Channels of the head that gives the attention, a SegFormer head.
    hrda.ATTENTION_CHANNELS = 256


def _add_training_keys(cfg: CfgNode) -> None:
    # SGD, ADAM or ADAMW.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rate of everything but the backbone, as a multiple of BASE_LR.
    cfg.SOLVER.HEAD_LR_FACTOR = 1.0
    # Learning rate of a backbone's layer as a multiple of the one after it, 0..1; 1 = all alike.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Weight decay of an encoder's position tables, class tokens and layer scales; None =
    # WEIGHT_DECAY. Norms and biases have Detectron2's WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS.
    cfg.SOLVER.WEIGHT_DECAY_TABLES = None
    # The same of learned vectors (nn.Embedding), such as queries.
    cfg.SOLVER.WEIGHT_DECAY_EMBEDDINGS = None
    # Iterations between two lines of the log, of metrics.json and of class_weights.csv.
    cfg.SOLVER.LOG_PERIOD = 20
    # Newest checkpoints that are kept beside the final one; 0 = all.
    cfg.SOLVER.CHECKPOINTS_KEPT = 2
    # Length of the learning-rate schedule, iterations; 0 = as long as the run. Longer than it: the
    # run stops before the rate has come to its end, as several references do.
    cfg.SOLVER.LR_ITERS = 0
    # Parts into which each process splits its share of a batch; gradients are averaged over them,
    # so that a batch that needs 8 GPUs fits on one.
    cfg.SOLVER.GRADIENT_ACCUMULATION = 1
    # With SOLVER.AMP.ENABLED: bfloat16, or float16 with a loss scaler.
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.EVAL = CfgNode()
    # Which network is scored: student, or teacher where the strategy has one.
    cfg.EVAL.WEIGHTS = "student"
    # Names of gbw_d2/evaluation/protocols.py, the leading one first; () = all that fit.
    cfg.EVAL.PROTOCOLS = ()
    # Mask AP of the instances by pycocotools, beside PQ; keeps all predicted masks until the end.
    cfg.EVAL.INSTANCE_AP = False
    # Panoptic predictions are written to OUTPUT_DIR/predictions in COCO panoptic format (those of
    # a second test set below a folder of its name).
    cfg.TEST.SAVE_PREDICTIONS = False
    # Test images drawn as image | ground truth | prediction at each evaluation; 0 = none.
    cfg.EVAL.PICTURES = 3
    # Target images on which criteria without labels are measured at each evaluation (label_free/*;
    # gbw_d2/evaluation/label_free.py), always the same ones; 0 = none.
    cfg.EVAL.LABEL_FREE_IMAGES = 0
    # The checkpoint that is best by this is kept beside the last one: a criterion without labels
    # ("label_free/neighbourhood_density"), or a metric of the first test set ("mIoU_16"), which
    # files, log and results.json call chosen on the target's labels. "" = last iteration only.
    cfg.EVAL.BEST_ON = ""


def _add_strategy_keys(cfg: CfgNode) -> None:
    cfg.UDA = CfgNode()
    # Adaptation strategy: a name of gbw_d2/uda.
    cfg.UDA.NAME = "source_only"
    # Share of the run, 0..1, that is source training alone before the target comes in: predictions
    # of random weights are nothing to learn from. (cbst has a stage for it, CBST.WARM_UP.)
    cfg.UDA.WARM_UP = 0.0

    masked = cfg.UDA.MASKED_CONSISTENCY = CfgNode()
    # Weight of the losses on target pictures with hidden blocks (MIC), for strategies with
    # pseudo-labels (self_training, cbst); 0 = off, 1 in the paper.
    masked.LOSS_WEIGHT = 0.0
    # Side of a block, pixels (a sixteenth of the crop's in MIC), and the share that is hidden.
    masked.BLOCK = 64
    masked.RATIO = 0.7

    entropy = cfg.UDA.MIN_ENTROPY = CfgNode()
    # Weight of the target's mean normalised entropy, and of the auxiliary head's where it has one.
    entropy.LOSS_WEIGHT = 0.001
    entropy.AUXILIARY_LOSS_WEIGHT = 0.0002

    squares = cfg.UDA.MAX_SQUARES = CfgNode()
    # Weight of the target's maximum squares loss.
    squares.LOSS_WEIGHT = 0.1
    # Image-wise weighting: exponent 0..1 of a predicted class's share; negative = off.
    squares.IMAGE_WEIGHTING_RATIO = 0.2
    # The factor 1/2: auto (as released: without image weighting only) | always | never.
    squares.HALF = "auto"
    # The mean runs over the classes too, as released; False = over pixels alone, K times as much.
    squares.MEAN_OVER_CLASSES = True
    # The auxiliary head learns the pseudo-labels of both heads' mean (needs MODEL.AUXILIARY_HEAD).
    squares.MULTI_LEVEL = False
    # A pixel has such a pseudo-label where a head gives a class more than this probability.
    squares.THRESHOLD = 0.95
    # Weight of that loss, as a multiple of LOSS_WEIGHT.
    squares.AUXILIARY_FACTOR = 0.1

    adversarial = cfg.UDA.ADVERSARIAL = CfgNode()
    # What the discriminator sees: softmax (AdaptSegNet) | self_information (AdvEnt).
    adversarial.INPUT = "softmax"
    # binary_cross_entropy | least_squares.
    adversarial.LOSS = "binary_cross_entropy"
    # Weight of the student's adversarial loss, and of the auxiliary head's where there is one.
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
    # Share of the run that trains on the source alone; 0 where MODEL.WEIGHTS has done that.
    cbst.WARM_UP = 0.5
    # Rounds of labelling and training that share the rest evenly.
    cbst.ROUNDS = 3
    # Learning rate of the first round as a multiple of BASE_LR, and the factor from round to round.
    cbst.LR_FACTOR = 0.2
    cbst.LR_DECAY = 0.7071
    # Portion of the pixels that is labelled in the first round, its growth per round, its limit.
    cbst.PORTION_START = 0.2
    cbst.PORTION_STEP = 0.05
    cbst.PORTION_MAX = 0.5
    # The same for the portion of the source images that is drawn (nested subsets).
    cbst.SOURCE_PORTION_START = 1.0
    cbst.SOURCE_PORTION_STEP = 0.0
    cbst.SOURCE_PORTION_MAX = 1.0
    # Portion of the target images that is labelled and drawn, by class-balanced confidence.
    cbst.TARGET_PORTION = 1.0
    # Pixels of a predicted class that are kept at the least, however small the portion.
    cbst.MIN_PIXELS_PER_CLASS = 1
    # Label instances too, by the same rule on their scores (panoptic networks only).
    cbst.INSTANCE_PSEUDO_LABELS = True
    # Weight of the loss on pseudo-labels.
    cbst.LOSS_WEIGHT = 1.0
    # For labelling, multiply probabilities by how often the source has the class at that place.
    cbst.SPATIAL_PRIOR = False
    # Side of the prior's Gaussian kernel as a share of the rows; 70 of GTA5's 1052.
    cbst.PRIOR_KERNEL = 0.0665
    # Probability of a crop to be drawn for a rare class; 0 = off, as it must be for ST.
    cbst.MINING_PROBABILITY = 0.8
    # Rare classes: those predicted at less than this share of the pixels; else the rarest so many.
    cbst.MINING_SHARE = 0.001
    cbst.MINING_CLASSES = 3
    # none | mrkld | lrent (CRST).
    cbst.REGULARISER = "none"
    # Weight of MRKLD; CRST's setting 0.1 is squared on its way and acts as 0.01.
    cbst.MRKLD_WEIGHT = 0.01
    # LRENT: soft labels ~ (p_c / t_c)^(1 / alpha).
    cbst.LRENT_ALPHA = 0.25


def _add_weighting_keys(cfg: CfgNode) -> None:
    cfg.WEIGHTING = CfgNode()
    # A name of gbw_d2/weighting/schemes.
    cfg.WEIGHTING.NAME = "none"
    # Heads whose loss is weighted, as a list of the network's heads; None or "all": those that the
    # scheme is defined for. A scheme that measures at a classifier takes the norm of the gradients
    # of heads that have none.
    cfg.WEIGHTING.HEADS = None
    # Pairs [head, other head]: the first takes over the class weights of the second. None: as the
    # network says (offsets take those of centres); []: every head has weights of its own.
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
    return ConfigError(f"{where}: {message}")


def load_config(config_file: str, words: Sequence[str] = ()) -> CfgNode:
    """Reads a YAML file with its ``_BASE_`` files and applies what the command line changes.

    Args:
        config_file: path of the leaf YAML file.
        words: ``axis/name ... KEY VALUE ...``: bases that replace the leaf's, then overrides.

    Returns:
        the merged, unfrozen config.

    Raises:
        ConfigError: a missing file, an unknown base or key, a wrong type, or YAML that asks to run
            code.
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
        # Several types are right for these, and yacs keeps to that of the value before.
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
