"""The portable bodies of the two special operations: ONNX local functions of standard operators.

Both are written in ONNX's own text syntax, so that what ONNX Runtime executes is what stands here. Every
value has its own name in the whole file: TensorRT's parser mis-wires functions whose formal names
meet names of the graph around them.
"""

from collections.abc import Iterable

import onnx
import onnx.parser

from condinst_deploy.contract.onnx_names import DOMAIN, DYNAMIC_MASK_HEAD, SELECT_INSTANCES
from condinst_deploy.model.config import MASK_STRIDE, CondInstConfig

OPSET = 18


def select_instances_function() -> onnx.FunctionProto:
    """Greedy class-wise NMS as a `Loop` of K rounds: take the best score, suppress what it overlaps.

    `boxes (B, N, 4)`, `scores (B, N)`, `labels (B, N)` int32 -> `indices (B, K)` int32, `count (B,)` int32.
    Attributes: `max_detections` (K) and `nms_iou`. All shapes are static but B and N; a score of 0 selects
    nothing; ties go to the lower index (ArgMax takes the first); empty slots are 0.
    """
    return _function(
        f"""
        <opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
        {SELECT_INSTANCES} <max_detections, nms_iou> (sel_boxes, sel_scores, sel_labels) => (sel_indices, sel_count)
        {{
            sel_k = Constant <value_int: int = @max_detections> ()
            sel_threshold = Constant <value_float: float = @nms_iou> ()
            sel_zero = Constant <value: tensor = float sel_zero_value {{0}}> ()
            sel_0 = Constant <value: tensor = int64 sel_0_value {{0}}> ()
            sel_1 = Constant <value: tensor = int64 sel_1_value {{1}}> ()
            sel_2 = Constant <value: tensor = int64 sel_2_value {{2}}> ()
            sel_3 = Constant <value: tensor = int64 sel_3_value {{3}}> ()
            sel_x1 = Gather <axis: int = 2> (sel_boxes, sel_0)
            sel_y1 = Gather <axis: int = 2> (sel_boxes, sel_1)
            sel_x2 = Gather <axis: int = 2> (sel_boxes, sel_2)
            sel_y2 = Gather <axis: int = 2> (sel_boxes, sel_3)
            sel_width = Sub (sel_x2, sel_x1)
            sel_height = Sub (sel_y2, sel_y1)
            sel_areas = Mul (sel_width, sel_height)
            sel_shape = Shape (sel_scores)
            sel_candidates = Gather (sel_shape, sel_1)
            sel_positions = Range (sel_0, sel_candidates, sel_1)
            sel_rest, sel_picks, sel_pick_scores = Loop (sel_k, "", sel_scores) <body: graph = sel_round
                (int64 sel_round_number, bool sel_go_on, float[B, N] sel_live)
                => (bool sel_go_on_out, float[B, N] sel_live_out, int64[B, 1] sel_pick, float[B, 1] sel_pick_score)
            {{
                sel_go_on_out = Constant <value: tensor = bool sel_go_on_value {{1}}> ()
                sel_pick = ArgMax <axis: int = 1, keepdims: int = 1> (sel_live)
                sel_pick_score = GatherElements <axis: int = 1> (sel_live, sel_pick)
                sel_px1 = GatherElements <axis: int = 1> (sel_x1, sel_pick)
                sel_py1 = GatherElements <axis: int = 1> (sel_y1, sel_pick)
                sel_px2 = GatherElements <axis: int = 1> (sel_x2, sel_pick)
                sel_py2 = GatherElements <axis: int = 1> (sel_y2, sel_pick)
                sel_pick_area = GatherElements <axis: int = 1> (sel_areas, sel_pick)
                sel_pick_label = GatherElements <axis: int = 1> (sel_labels, sel_pick)
                sel_left = Max (sel_x1, sel_px1)
                sel_top = Max (sel_y1, sel_py1)
                sel_right = Min (sel_x2, sel_px2)
                sel_bottom = Min (sel_y2, sel_py2)
                sel_signed_width = Sub (sel_right, sel_left)
                sel_signed_height = Sub (sel_bottom, sel_top)
                sel_overlap_width = Relu (sel_signed_width)
                sel_overlap_height = Relu (sel_signed_height)
                sel_overlap = Mul (sel_overlap_width, sel_overlap_height)
                sel_both = Add (sel_areas, sel_pick_area)
                sel_union = Sub (sel_both, sel_overlap)
                sel_iou = Div (sel_overlap, sel_union)
                sel_close = Greater (sel_iou, sel_threshold)
                sel_same_label = Equal (sel_labels, sel_pick_label)
                sel_rival = And (sel_close, sel_same_label)
                sel_itself = Equal (sel_positions, sel_pick)
                sel_gone = Or (sel_rival, sel_itself)
                sel_live_out = Where (sel_gone, sel_zero, sel_live)
            }}>
            sel_last_axis = Constant <value: tensor = int64[1] sel_last_axis_value {{2}}> ()
            sel_first_axis = Constant <value: tensor = int64[1] sel_first_axis_value {{0}}> ()
            sel_picks_by_slot = Squeeze (sel_picks, sel_last_axis)
            sel_scores_by_slot = Squeeze (sel_pick_scores, sel_last_axis)
            sel_kept = Greater (sel_scores_by_slot, sel_zero)
            sel_kept_or_0 = Where (sel_kept, sel_picks_by_slot, sel_0)
            sel_by_image = Transpose <perm: ints = [1, 0]> (sel_kept_or_0)
            sel_indices = Cast <to: int = {onnx.TensorProto.INT32}> (sel_by_image)
            sel_kept_01 = Cast <to: int = {onnx.TensorProto.INT32}> (sel_kept)
            sel_count = ReduceSum <keepdims: int = 0> (sel_kept_01, sel_first_axis)
        }}
        """
    )


def dynamic_mask_head_function(config: CondInstConfig) -> onnx.FunctionProto:
    """The dynamic mask head as batched matrix products.

    `mask_feats (B, C, h, w)`, `params (B, K, num_params)`, `points (B, K, 2)`, `soi (B, K)` -> `logits
    (B, K, h, w)`. Relative coordinates are never made per instance and pixel:
    `W1 [x; y; feats] + b1 = W1_feats feats + (W1_x x + b1) + W1_y y`, where the relative coordinate x depends on the
    column alone and y on the row alone: a product of (K*hidden, C) with the features, a term a column
    and a term a row. What is computed from coordinates has names with `xy_`: those nodes stay in float32
    in every engine.
    """
    channels, hidden = config.mask_channels, config.dynamic_channels
    inputs = channels + 2
    sizes = [hidden * inputs, hidden * hidden, hidden, hidden, hidden, 1]
    return _function(
        f"""
        <opset_import: ["" : {OPSET}], domain: "{DOMAIN}">
        {DYNAMIC_MASK_HEAD} (dmh_feats, dmh_params, dmh_points, dmh_soi) => (dmh_logits)
        {{
            dmh_sizes = Constant <value: tensor = int64[6] dmh_sizes_value {_braced(sizes)}> ()
            dmh_w1, dmh_w2, dmh_w3, dmh_b1, dmh_b2, dmh_b3 = Split <axis: int = 2> (dmh_params, dmh_sizes)
            dmh_as_w1 = Constant <value: tensor = int64[4] dmh_as_w1_value {_braced([0, 0, hidden, inputs])}> ()
            dmh_as_w2 = Constant <value: tensor = int64[4] dmh_as_w2_value {_braced([0, 0, hidden, hidden])}> ()
            dmh_as_w3 = Constant <value: tensor = int64[4] dmh_as_w3_value {_braced([0, 0, 1, hidden])}> ()
            dmh_as_bias = Constant <value: tensor = int64[4] dmh_as_bias_value {_braced([0, 0, hidden, 1])}> ()
            dmh_as_scalar = Constant <value: tensor = int64[4] dmh_as_scalar_value {{0, 0, 1, 1}}> ()
            dmh_w1_rows = Reshape (dmh_w1, dmh_as_w1)
            dmh_w1_sizes = Constant <value: tensor = int64[3] dmh_w1_sizes_value {_braced([1, 1, channels])}> ()
            dmh_w1_x, dmh_w1_y, dmh_w1_feats = Split <axis: int = 3> (dmh_w1_rows, dmh_w1_sizes)
            dmh_b1_4d = Reshape (dmh_b1, dmh_as_bias)

            dmh_feats_shape = Shape (dmh_feats)
            dmh_2 = Constant <value: tensor = int64 dmh_2_value {{2}}> ()
            dmh_3 = Constant <value: tensor = int64 dmh_3_value {{3}}> ()
            dmh_0 = Constant <value: tensor = int64 dmh_0_value {{0}}> ()
            dmh_1 = Constant <value: tensor = int64 dmh_1_value {{1}}> ()
            dmh_height = Gather (dmh_feats_shape, dmh_2)
            dmh_width = Gather (dmh_feats_shape, dmh_3)
            dmh_columns = Range (dmh_0, dmh_width, dmh_1)
            dmh_rows = Range (dmh_0, dmh_height, dmh_1)
            dmh_xy_columns = Cast <to: int = {onnx.TensorProto.FLOAT}> (dmh_columns)
            dmh_xy_rows = Cast <to: int = {onnx.TensorProto.FLOAT}> (dmh_rows)
            dmh_xy_stride = Constant <value: tensor = float dmh_xy_stride_value {{{MASK_STRIDE}}}> ()
            dmh_xy_half = Constant <value: tensor = float dmh_xy_half_value {{{MASK_STRIDE // 2}}}> ()
            dmh_xy_columns_px = Mul (dmh_xy_columns, dmh_xy_stride)
            dmh_xy_rows_px = Mul (dmh_xy_rows, dmh_xy_stride)
            dmh_xy_xs = Add (dmh_xy_columns_px, dmh_xy_half)
            dmh_xy_ys = Add (dmh_xy_rows_px, dmh_xy_half)

            dmh_as_point = Constant <value: tensor = int64[4] dmh_as_point_value {{0, 0, 2, 1}}> ()
            dmh_xy_points = Reshape (dmh_points, dmh_as_point)
            dmh_xy_halves = Constant <value: tensor = int64[2] dmh_xy_halves_value {{1, 1}}> ()
            dmh_xy_point_x, dmh_xy_point_y = Split <axis: int = 2> (dmh_xy_points, dmh_xy_halves)
            dmh_xy_soi = Reshape (dmh_soi, dmh_as_scalar)
            dmh_xy_distance_x = Sub (dmh_xy_point_x, dmh_xy_xs)
            dmh_xy_distance_y = Sub (dmh_xy_point_y, dmh_xy_ys)
            dmh_xy_relative_x = Div (dmh_xy_distance_x, dmh_xy_soi)
            dmh_xy_relative_y = Div (dmh_xy_distance_y, dmh_xy_soi)
            dmh_xy_product_x = Mul (dmh_w1_x, dmh_xy_relative_x)
            dmh_xy_term_x = Add (dmh_xy_product_x, dmh_b1_4d)
            dmh_xy_term_y = Mul (dmh_w1_y, dmh_xy_relative_y)
            dmh_row_axis = Constant <value: tensor = int64[1] dmh_row_axis_value {{3}}> ()
            dmh_column_axis = Constant <value: tensor = int64[1] dmh_column_axis_value {{4}}> ()
            dmh_term_x = Unsqueeze (dmh_xy_term_x, dmh_row_axis)
            dmh_term_y = Unsqueeze (dmh_xy_term_y, dmh_column_axis)

            dmh_as_columns = Constant <value: tensor = int64[3] dmh_as_columns_value {_braced([0, channels, -1])}> ()
            dmh_feats_flat = Reshape (dmh_feats, dmh_as_columns)
            dmh_as_product = Constant <value: tensor = int64[3] dmh_as_product_value {_braced([0, -1, channels])}> ()
            dmh_w1_all = Reshape (dmh_w1_feats, dmh_as_product)
            dmh_product1 = MatMul (dmh_w1_all, dmh_feats_flat)
            dmh_batch_slots = Shape <end: int = 2> (dmh_params)
            dmh_map_shape = Shape <start: int = 2> (dmh_feats)
            dmh_hidden_only = Constant <value: tensor = int64[1] dmh_hidden_only_value {_braced([hidden])}> ()
            dmh_as_maps = Concat <axis: int = 0> (dmh_batch_slots, dmh_hidden_only, dmh_map_shape)
            dmh_feature_term = Reshape (dmh_product1, dmh_as_maps)
            dmh_with_x = Add (dmh_feature_term, dmh_term_x)
            dmh_sum1 = Add (dmh_with_x, dmh_term_y)
            dmh_relu1 = Relu (dmh_sum1)
            dmh_hidden_any = Constant <value: tensor = int64[2] dmh_hidden_any_value {_braced([hidden, -1])}> ()
            dmh_as_hidden = Concat <axis: int = 0> (dmh_batch_slots, dmh_hidden_any)
            dmh_hidden1 = Reshape (dmh_relu1, dmh_as_hidden)
            dmh_w2_rows = Reshape (dmh_w2, dmh_as_w2)
            dmh_b2_4d = Reshape (dmh_b2, dmh_as_bias)
            dmh_product2 = MatMul (dmh_w2_rows, dmh_hidden1)
            dmh_sum2 = Add (dmh_product2, dmh_b2_4d)
            dmh_hidden2 = Relu (dmh_sum2)
            dmh_w3_rows = Reshape (dmh_w3, dmh_as_w3)
            dmh_b3_4d = Reshape (dmh_b3, dmh_as_scalar)
            dmh_product3 = MatMul (dmh_w3_rows, dmh_hidden2)
            dmh_sum3 = Add (dmh_product3, dmh_b3_4d)
            dmh_as_logits = Concat <axis: int = 0> (dmh_batch_slots, dmh_map_shape)
            dmh_logits = Reshape (dmh_sum3, dmh_as_logits)
        }}
        """
    )


def _braced(values: list[int]) -> str:
    return "{" + ", ".join(str(v) for v in values) + "}"


def _name_nodes(nodes: Iterable[onnx.NodeProto], function: str) -> None:
    """Name every node after its function and its first output: precision policies match these names."""
    for node in nodes:
        node.name = f"{function}/{node.output[0].split('_', 1)[1]}"
        for attribute in node.attribute:
            _name_nodes(attribute.g.node, function)


def _function(text: str) -> onnx.FunctionProto:
    function = onnx.parser.parse_function(text)
    _name_nodes(function.node, function.name)
    onnx.checker.check_function(function)
    return function
