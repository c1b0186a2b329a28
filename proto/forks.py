"""What forks of Caffe write into prototxts: fields that are passed over with a warning, and aliases that are translated.

Every entry is a name that some published fork declares. A layer whose type only a fork has is refused later, when a
net is built from it, by its type; its parameters must not hide that behind a syntax error.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Fields that are accepted and ignored, by message.
FIELDS: dict[str, frozenset[str]] = {name: frozenset(fields.split()) for name, fields in {
    "LayerParameter": """
        augmentation_param axpy_param batch_reduction_param bilinear_param box_output_param cconvolution_param
        center_loss_param cinner_product_param coeff_schedule_param continuation_indicator_param
        correlation_param cpm_transform_param decode_bbox_param deconvolution_param dense_image_data_param
        denseblock_param dense_crf_param depthwise_conv_param detection_loss_param detectnet_augmentation_param
        detectnet_groundtruth_param domain_transform_param engine eval_detection_param flow_warp_param
        focal_loss_param forward_math backward_math forward_type backward_type cudnn_math_override debug
        gather_param general_contrastive_loss_param general_triplet_loss_param image_seg_data_param
        inner_distance_param input_type label_specific_rescale_param lifted_struct_similarity_softmax_param
        local_param lpq_loss_param lstm_param margin_inner_product_param mat_read_param mat_write_param
        mn_activation_param multi_accuracy_param multinode nca_loss_param noise_param normalize_param parallel
        pair_data_param proposal_param quantization_param rank_param region_loss_param relu6_param
        resample_param roi_warping_param seg_data_param selu_dropout_param selu_param slice_transform_param
        spatial_dropout_param triplet_loss_param trt_param unique_label_param video_data_param
        warp_ctc_loss_param yolov3_detection_output_param""",
    "V1LayerParameter": """
        mat_read_param mat_write_param softmaxloss_param strict_dim image_seg_data_param dense_crf_param
        domain_transform_param""",
    "AccuracyParameter": "min_is_better",
    "BatchNormParameter": "engine update_global_stats icnet",
    "ConvolutionParameter": "conv_algorithm cudnn_convolution_algo_seeker cudnn_fwd_algo relu negative_slope tf_pad quantization_param",
    "DataParameter": "cache threads parser_threads random_skip",
    "DetectionOutputParameter": "save_output_param visualize visualize_threshold save_file objectness_score",
    "DropoutParameter": "engine sample_weights_test",
    "DetectionEvaluateParameter": "resize_param",
    "EltwiseParameter": "fusion_type engine",
    "ImageDataParameter": "has_label label_type ignore_label pair_size",
    "InnerProductParameter": "normalize engine",
    "LRNParameter": "local_size_w",
    "MemoryDataParameter": "share_in_parallel source",
    "NetParameter": "engine bn_scale_merge bn_scale_remove default_forward_type default_backward_type default_forward_math default_backward_math global_grad_scale reduce_buckets eltwise_relu",
    "ParameterParameter": "blob_filler",
    "PoolingParameter": "torch_pooling kernel_depth temporal_stride temporal_pad",
    "ScaleParameter": "min_value max_value",
    "SoftmaxParameter": "normalize_type",
    "SolverParameter": """
        ap_version eval_type show_per_class_result stepearly vstep_lr vstep_size larc larc_policy larc_turbo
        local_gw_ratio local_lr_auto rampup_interval rampup_lr min_lr_ratio momentum_policy momentum_power max_momentum
        weight_decay_policy weight_decay_power warmup_start_ratio disabled_update store_blobs_in_old_format""",
    "TransformationParameter": """
        batch_noise brightness_fraction contrast_adjustment crop_h crop_height crop_w crop_width display
        flow max_angle_rotation max_color_shift max_contrast
        max_scaling_ratio max_smooth max_translation min_angle_rotation min_contrast min_scaling_ratio noise_param
        num_labels rotate_prob scale_factors smooth_filtering use_blur""",
}.items()}


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
                             "hole_w": ("dilation", _dilate("1"))},
}

ENGINES = {"MKL2017", "MKLDNN", "CAFFE_MKL", "GREENTEA", "LIBDNN"}

# Types that only forks have in their V1 enum, and the type string that the same layer has today.
V1_TYPES = {"CONVOLUTION3D": "Convolution3D", "DENSE_CRF": "DenseCRF", "DOMAIN_TRANSFORM": "DomainTransform",
            "IMAGE_SEG_DATA": "ImageSegData", "INTERP": "Interp", "MAT_READ": "MatRead", "MAT_WRITE": "MatWrite",
            "PADDING": "Padding", "POOLING3D": "Pooling3D", "ROI_POOLING": "ROIPooling", "SEG_ACCURACY": "SegAccuracy",
            "UNIQUE_LABEL": "UniqueLabel", "VIDEO_DATA": "VideoData", "BN": "BN", "UPSAMPLE": "Upsample", "PRELU": "PReLU"}


def enum_value(message: Any, field: str, value: str) -> bool:
    """Whether forks have `value` for this enum; the message is given what there is to keep of it."""
    if field == "engine" and value in ENGINES:
        return True                             # stays DEFAULT
    if field == "type" and value in V1_TYPES and message.DESCRIPTOR.name == "V1LayerParameter":
        message.type_name = V1_TYPES[value]
        return True
    return False


# Files that are no nets and look like one to begin with.
NOT_NETS = {("NetParameter", "item"): "\n  this is a label map (class names for SSD's tools), not a net"}
