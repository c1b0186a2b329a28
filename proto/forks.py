"""What forks of Caffe write into prototxts, and what becomes of it: translated, passed over with a warning, or refused.

forks.proto has the fields and enum values that published forks declare, with their types. They are part of brew_pb2, so
that every reader of protobuf takes them, and never part of what a net is built from. What changes only speed, memory,
logs or which variations of a picture a training sees is passed over. What changes the net, its results or the course of
a training is refused, unless its value is the one that changes nothing. A layer whose type only a fork has is refused
by its type, later; its parameters must not hide that behind another error.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from math import isclose
from typing import Any

from google.protobuf.message import Message

NUMBERS = range(20000, 30000)                   # of the fields and enum values of forks.proto

# Further fields that forks are known to have: their types are not known.
FIELDS: dict[str, frozenset[str]] = {name: frozenset(fields.split()) for name, fields in {
    "LayerParameter": """
        axpy_param bilinear_param box_output_param cconvolution_param cinner_product_param cpm_transform_param
        decode_bbox_param deconvolution_param depthwise_conv_param detection_loss_param gather_param
        image_seg_data_param input_type lifted_struct_similarity_softmax_param multi_accuracy_param
        nca_loss_param pair_data_param parallel rank_param roi_warping_param selu_dropout_param selu_param
        slice_transform_param warp_ctc_loss_param""",
    "V1LayerParameter": """
        dense_crf_param domain_transform_param down_sampling_param image_seg_data_param mat_read_param mat_write_param
        softmaxloss_param strict_dim""",
    "BatchNormParameter": "icnet",
    "ConvolutionParameter": """
        cudnn_fwd_algo filter_group kernel_depth quantization_param temporal_pad temporal_stride tf_pad""",
    "DataParameter": "random_skip show_data",
    "EltwiseParameter": "fusion_type",
    "ImageDataParameter": """
        clip_max clip_min has_label is_flow mean_value new_length num_truth_channels pair_size sampling_rate
        show_data truth_scale use_byte_input use_image use_label use_temporal_jitter""",
    "LRNParameter": "local_size_w",
    "MemoryDataParameter": "share_in_parallel source",
    "NetParameter": "bn_scale_merge bn_scale_remove eltwise_relu",
    "PoolingParameter": "kernel_depth temporal_pad temporal_stride",
    "SolverParameter": "min_lr_ratio stepearly vstep_lr vstep_size warmup_start_ratio",
    "TransformationParameter": """
        batch_noise brightness_fraction contrast_adjustment max_angle_rotation max_scaling_ratio max_translation
        min_angle_rotation min_scaling_ratio rotate_prob use_blur""",
}.items()}

# Families of names, of which each version of a fork has some.
FAMILIES = {
    "LayerParameter": r"(yolo|mn_|detectnet_|label_specific_)\w*_param", "DataParameter": r"\w*(threads|cache)",
    "ImageDataParameter": r"\w*(threads|cache)|face_\w+", "SolverParameter": r"larc_\w+",
    "NetParameter": r"default_\w+(type|math|override)|\w*mem_sharing",
    "TransformationParameter":
        r"\w*rand_resize\w*|(vertical|horizontal)_stretch_\w+|random_\w+_param|interpolation_\w+"}

# What is refused, and why: reason -> message -> fields.
REASONS = {
    'it sets the learning rate, which lr_policy "multistep" does here': {
        "SolverParameter": "stagelr stageiter vstep_lr vstep_size stepearly",
    },
    "it changes the learning rate, as warmup_iter and warmup_start_lr do here": {
        "SolverParameter": "rampup_interval rampup_lr warmup_start_ratio min_lr_ratio",
    },
    'it adapts the rate of each layer, as type: "LARS" does here': {
        "SolverParameter": "larc local_lr_auto",
    },
    "it changes momentum or weight decay during the training": {
        "SolverParameter": "momentum_policy weight_decay_policy",
    },
    "it changes which weights are trained, or how far": {
        "SolverParameter": "clamp_weights_lower clamp_weights_upper clip_weights disabled_update group_id",
    },
    "it fuses another layer into this one: write that layer out": {
        "ConvolutionParameter": "relu fusion_type coeff",
        "InnerProductParameter": "relu",
        "BatchNormParameter": "relu",
    },
    "it changes what the layer computes": {
        "ConvolutionParameter": "shape_offset tf_pad kernel_depth temporal_pad temporal_stride",
        "InnerProductParameter": "normalize",
        "BatchNormParameter": "filler disable_mean disable_variance",
        "DropoutParameter": "sqrt_scale sample_weights_test",
        "ELUParameter": "lambda",
        "FillerParameter": "scale alpha diag_val",
        "PoolingParameter": """
            torch_pooling pad_3d kernel_size_3d stride_3d avg_include_pad axis blobs_lr kernel_depth temporal_pad
            temporal_stride""",
        "ScaleParameter": "min_value max_value",
        "SoftmaxParameter":
            "hard_ratio class_weight hard_mining_label cutting_point normalize_type label_smooth_factor",
        "ReductionParameter": "k",
        "ReshapeParameter": "pixelshuffler",
        "ROIPoolingParameter": "pooled_size",
        "NormalizeParameter": "normalize_type fix_gradient bp_norm",
        "MultiBoxLossParameter": "ignore_difficult_gt objectness_score",
        "CTCLossParameter":
            "output_delay blank_index preprocess_collapse_repeated ctc_merge_repeated loss_calculation_t",
        "EltwiseParameter": "fusion_type",
        "LRNParameter": "local_size_w",
    },
    "it changes which values the layer reads": {
        "DataParameter": """
            encoding slice_point subtract task_class_num limit_samples preselection_file preselection_label
            range_start range_end""",
        "ImageDataParameter":
            "label_type regression task_class_num balance_class label_cut_start label_cut_end new_dim",
        "MemoryDataParameter": "transpose label_size",
        "TransformationParameter": """
            fix_crop more_fix_crop multi_scale original_image is_flow stride upper_size upper_height upper_width
            bgr2rgb cvt_bgr2rgb pad""",
    },
}
REFUSED: dict[str, dict[str, str]] = {}
for _reason, _messages in REASONS.items():
    for _message, _fields in _messages.items():
        REFUSED.setdefault(_message, {}).update(dict.fromkeys(_fields.split(), _reason))

# Fields that may be given once here and several times in a fork.
REPEATED = {("TransformationParameter", "resize_param"): "YOLO", ("SolverParameter", "device_id"): "TSN",
            ("Datum", "label"): "caffe_ocr"}

# Layer types of forks that brew does not have.
TYPES = {name: fork for fork, names in {
    "SSD": "VideoData",
    "NVIDIA's Caffe": "DetectNetTransformation L1Loss TRT",
    "Intel's Caffe": "BoxData MKLBatchNorm MnActivation RegionLoss SpatialDropout",
    "caffe-yolo": "DetectionLoss EvalDetection",
    "DeepLab": """
        AdaptiveBiasChannel BiasChannel DenseCRF DomainTransform DomainTransformForwardOnly ImageSegData MatRead
        MatWrite SpatialProduct UniqueLabel""",
    "MobileNet-YOLO": """
        AssistedExcitation GaussianYolov3 LaneData SegmentationEvaluate YoloDetectionOutput YoloSeg Yolov3
        Yolov3DetectionOutput""",
    "SegNet": "DenseImageData",
    "TSN": "BatchReduction Gather Scatter SegData",
    "FlowNet2": """
        Accum BlackAugmentation ChannelNorm Correlation Correlation1D CustomData DataAugmentation DisparityData
        Downsample FLOWriter FloatReader FloatWriter FlowAugmentation FlowWarp GenerateAugmentationParameters
        ImgReader ImgWriter LpqLoss Mean NegReLU PFMWriter Resample""",
    "caffe-windows": """
        Arccos BatchContrastiveLoss CenterLoss ChannelScale ConfidencePenaltyLoss CorrelationLoss Cosine FCNAccuracy
        Flip FocalLoss GeneralContrastiveLoss GeneralTripletLoss GlobalLSEMargin Gram Hotspot InnerDistance Insanity
        LabelSpecificAdd LabelSpecificAffine LabelSpecificHardMargin LabelSpecificMargin LabelSpecificRescale
        LargeMarginInnerProduct Local MarginInnerProduct MovingNormalize MultiLabelImageData NCALoss Noise Pairwise
        PredictBox Proposal Resize Slope SoftContrastiveLoss SoftTruncation SubRegion Transformer TripletLoss
        Truncation""",
    "caffe_ocr": "DenseBlock Lstm ReverseTime SoftmaxWithLossMultiLabel",
    "warpctc-caffe": "ContinuationIndicator LabelsequenceAccuracy",
    "Ristretto": "ConvolutionRistretto DeconvolutionRistretto FcRistretto LRNRistretto",
    "C3D": """
        BlackHole Convolution3D Deconvolution3D DownSampling EltwiseProduct L2Normalize Pooling3D
        VideoSegmentationData VideoWithVoxelTruthData VolumeData VoxelCustomLoss VoxelSoftmax VoxelSoftmaxLoss""",
    "Intel's Caffe and others": "SeLu SeLuDropout",
}.items() for name in names.split()}


def _dilate(*fields: str) -> Callable[[Any, str], None]:
    def set_fields(message: Any, value: str) -> None:
        for axis, field in enumerate(fields):
            if field == "all":
                message.dilation[:] = [int(value)]
            else:                               # hole_h and hole_w: the axis that is not given keeps 1
                message.dilation[:] = (list(message.dilation) or [1, 1])
                message.dilation[int(field)] = int(value)
    return set_fields


def _round(message: Any, value: str) -> None:
    message.round_mode = {"true": message.CEIL, "false": message.FLOOR, "1": message.CEIL, "0": message.FLOOR}[value]


# Fields that say what a field of brew's says under another name: message -> field -> (the other name, translation).
ALIASES: dict[str, dict[str, tuple[str, Callable[[Any, str], None]]]] = {
    "PoolingParameter": {"ceil_mode": ("round_mode", _round)},
    "ConvolutionParameter": {"hole": ("dilation", _dilate("all")), "hole_h": ("dilation", _dilate("0")),
                             "hole_w": ("dilation", _dilate("1")), "dilation_h": ("dilation", _dilate("0")),
                             "dilation_w": ("dilation", _dilate("1"))},
}

ENGINES = {"MKL2017", "MKLDNN", "CAFFE_MKL", "GREENTEA", "LIBDNN"}

# Types that only forks have in their V1 enum, and the type string that the same layer has today.
V1_TYPES = {
    "CONVOLUTION3D": "Convolution3D", "DENSE_CRF": "DenseCRF", "DOMAIN_TRANSFORM": "DomainTransform",
    "IMAGE_SEG_DATA": "ImageSegData", "INTERP": "Interp", "MAT_READ": "MatRead", "MAT_WRITE": "MatWrite",
    "PADDING": "Padding", "POOLING3D": "Pooling3D", "ROI_POOLING": "ROIPooling", "SEG_ACCURACY": "SegAccuracy",
    "UNIQUE_LABEL": "UniqueLabel", "VIDEO_DATA": "VideoData", "BN": "BN", "UPSAMPLE": "Upsample", "PRELU": "PReLU",
    "RELU6": "ReLU6", "LOCAL": "Local", "NORMALIZE": "Normalize", "INSANITY": "Insanity", "TRIPLET_LOSS": "TripletLoss",
    "ROIPOOLING": "ROIPooling", "BATCH_NORM": "BatchNorm", "ELTWISE_AFFINE": "EltwiseAffine",
    "ELTWISE_PRODUCT": "EltwiseProduct", "VOLUME_DATA": "VolumeData", "DECONVOLUTION3D": "Deconvolution3D",
    "DOWN_SAMPLING": "DownSampling", "VIDEO_SEGMENTATION_DATA": "VideoSegmentationData",
    "VIDEO_WITH_VOXEL_TRUTH_DATA": "VideoWithVoxelTruthData", "VOXEL_SOFTMAX": "VoxelSoftmax",
    "VOXEL_SOFTMAX_LOSS": "VoxelSoftmaxLoss", "VOXEL_CUSTOM_LOSS": "VoxelCustomLoss"}


def is_forks(field: Any) -> bool:
    """Whether a field of one of brew's messages is a fork's."""
    return field.number in NUMBERS


def knows(message: str, name: str) -> bool:
    """Whether forks have a field of this name, which brew's schema lacks or has for them only."""
    if name in FIELDS.get(message, ()) or name in REFUSED.get(message, {}):
        return True
    return bool(re.fullmatch(FAMILIES.get(message, "(?!)"), name))


def refusal(message: str, name: str, field: Any = None, text: str | None = None) -> str:
    """Why a net or solver with this field is refused; "" if it is passed over. `text`: its value as prototxt, if it is
    one word: the fork's default changes nothing."""
    reason = REFUSED.get(message, {}).get(name, "")
    if reason and field is not None and text is not None and field.message_type is None and not field.is_repeated:
        default = field.default_value
        if isinstance(default, bool):
            same = (text.lower() in ("true", "1", "t")) == default
        elif field.enum_type is not None:
            same = text in (field.enum_type.values_by_number[default].name, str(default))
        elif isinstance(default, str):
            same = text.strip("\"'") == default
        else:
            number = _number(text)                  # a default of single precision, as 0.01, is not quite what is written
            same = number is not None and isclose(number, default, rel_tol=1e-6)
        return "" if same else reason
    return "" if field is None and text in ("false", "0") else reason


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def enum_value(message: Any, field: str, value: str) -> bool:
    """Whether forks have `value` for this enum; the message is given what there is to keep of it."""
    if field == "engine" and value in ENGINES:
        return True                             # stays DEFAULT
    if field == "type" and value in V1_TYPES and message.DESCRIPTOR.name == "V1LayerParameter":
        message.type_name = V1_TYPES[value]
        return True
    return False


def settle(message: Message, layer: Any = None) -> Iterator[tuple[Any, str, str, bool]]:
    """Take what is a fork's out of a message that was not read by brew's reader. Gives for each such field: the layer
    that it belongs to (or None), its name, what there is to say of it, and whether it is refused."""
    kind = message.DESCRIPTOR.name
    layer = message if kind in ("LayerParameter", "V1LayerParameter") else layer
    for field, value in message.ListFields():
        name, one = field.name, not field.is_repeated and field.message_type is None
        if is_forks(field) and name in ALIASES.get(kind, {}):
            meaning, set_fields = ALIASES[kind][name]
            for item in value if field.is_repeated else [value]:
                set_fields(message, str(item).lower())
            message.ClearField(name)
            yield layer, name, f"read as {meaning}", False
        elif is_forks(field):
            text = None if not one else field.enum_type.values_by_number[value].name if field.enum_type else str(value)
            reason = refusal(kind, name, field, text)
            reason = "" if layer is not None and layer.type in TYPES else reason
            message.ClearField(name)
            yield layer, name, reason or "it is ignored", bool(reason)
        elif field.message_type is not None and name != "blobs":
            for item in value if field.is_repeated else [value]:
                yield from settle(item, layer)
        elif one and field.enum_type is not None and value in NUMBERS:
            text = field.enum_type.values_by_number[value].name
            kept = enum_value(message, name, text)
            message.ClearField(name)
            yield layer, f"{name}: {text}", "it is ignored" if kept else "brew does not have it", not kept


# Files that are no nets and look like one to begin with.
NOT_NETS = {("NetParameter", "item"): "\n  this is a label map (class names for SSD's tools), not a net"}
