"""The portable bodies of the two special operations: ONNX local functions of standard operators.

Both are written in ONNX's own text syntax, so that what ONNX Runtime executes is what stands here. Every
value has a name of its own in the whole file: TensorRT's parser mis-wires functions whose formal names
meet names of the graph around them.
"""

from collections.abc import Iterable

import onnx
import onnx.parser

from condinst_deploy.model.config import MASK_STRIDE, CondInstConfig

OPSET = 18
DOMAIN = "condinst"
SELECT_INSTANCES = "SelectInstances"
DYNAMIC_MASK_HEAD = "DynamicMaskHead"


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
            sel_by_picture = Transpose <perm: ints = [1, 0]> (sel_kept_or_0)
            sel_indices = Cast <to: int = {onnx.TensorProto.INT32}> (sel_by_picture)
            sel_kept_01 = Cast <to: int = {onnx.TensorProto.INT32}> (sel_kept)
            sel_count = ReduceSum <keepdims: int = 0> (sel_kept_01, sel_first_axis)
        }}
        """
    )


def dynamic_mask_head_function(config: CondInstConfig) -> onnx.FunctionProto:
    """The dynamic mask head as batched matrix products.

    `mask_feats (B, C, h, w)`, `params (B, K, num_params)`, `points (B, K, 2)`, `soi (B, K)` -> `logits
    (B, K, h, w)`. Relative coordinates are never made per instance and pixel:
    `W1 [(point - pixel) / soi; feats] + b1 = W1_feats feats + W1_x rel_x + (W1_y rel_y + b1)`,
    a product of (K*hidden, C) with the features, a term of the column and one of the row. Points, pixels and
    sizes of interest are whole numbers or powers of two, so that `rel` is exact, and small where the mask ends.
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
            dmh_as_row = Constant <value: tensor = int64[3] dmh_as_row_value {{0, 0, 1}}> ()
            dmh_w1_rows = Reshape (dmh_w1, dmh_as_w1)
            dmh_w1_sizes = Constant <value: tensor = int64[3] dmh_w1_sizes_value {_braced([1, 1, channels])}> ()
            dmh_w1_x, dmh_w1_y, dmh_w1_feats = Split <axis: int = 3> (dmh_w1_rows, dmh_w1_sizes)

            dmh_soi_3d = Reshape (dmh_soi, dmh_as_row)
            dmh_points_x, dmh_points_y = Split <axis: int = 2, num_outputs: int = 2> (dmh_points)
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
            dmh_columns_f = Cast <to: int = {onnx.TensorProto.FLOAT}> (dmh_columns)
            dmh_rows_f = Cast <to: int = {onnx.TensorProto.FLOAT}> (dmh_rows)
            dmh_stride = Constant <value: tensor = float dmh_stride_value {{{MASK_STRIDE}}}> ()
            dmh_half = Constant <value: tensor = float dmh_half_value {{{MASK_STRIDE // 2}}}> ()
            dmh_columns_px = Mul (dmh_columns_f, dmh_stride)
            dmh_rows_px = Mul (dmh_rows_f, dmh_stride)
            dmh_xs = Add (dmh_columns_px, dmh_half)
            dmh_ys = Add (dmh_rows_px, dmh_half)
            dmh_map_shape = Shape <start: int = 2> (dmh_feats)
            dmh_dx = Sub (dmh_points_x, dmh_xs)
            dmh_dy = Sub (dmh_points_y, dmh_ys)
            dmh_rel_x = Div (dmh_dx, dmh_soi_3d)
            dmh_rel_y = Div (dmh_dy, dmh_soi_3d)
            dmh_as_row_axis = Constant <value: tensor = int64[1] dmh_as_row_axis_value {{2}}> ()
            dmh_rel_x_4d = Unsqueeze (dmh_rel_x, dmh_as_row_axis)
            dmh_rel_y_4d = Unsqueeze (dmh_rel_y, dmh_as_row_axis)
            dmh_term_x = Mul (dmh_w1_x, dmh_rel_x_4d)
            dmh_product_y = Mul (dmh_w1_y, dmh_rel_y_4d)
            dmh_term_y = Add (dmh_product_y, dmh_b1_4d)
            dmh_x_axis = Constant <value: tensor = int64[1] dmh_x_axis_value {{3}}> ()
            dmh_y_axis = Constant <value: tensor = int64[1] dmh_y_axis_value {{4}}> ()
            dmh_by_column = Unsqueeze (dmh_term_x, dmh_x_axis)
            dmh_by_row = Unsqueeze (dmh_term_y, dmh_y_axis)
            dmh_coordinate_term = Add (dmh_by_row, dmh_by_column)

            dmh_as_columns = Constant <value: tensor = int64[3] dmh_as_columns_value {_braced([0, channels, -1])}> ()
            dmh_feats_flat = Reshape (dmh_feats, dmh_as_columns)
            dmh_as_product = Constant <value: tensor = int64[3] dmh_as_product_value {_braced([0, -1, channels])}> ()
            dmh_w1_all = Reshape (dmh_w1_feats, dmh_as_product)
            dmh_feature_term = MatMul (dmh_w1_all, dmh_feats_flat)
            dmh_batch_slots = Shape <end: int = 2> (dmh_params)
            dmh_hidden_rows = Constant <value: tensor = int64[1] dmh_hidden_rows_value {_braced([hidden])}> ()
            dmh_as_maps = Concat <axis: int = 0> (dmh_batch_slots, dmh_hidden_rows, dmh_map_shape)
            dmh_feature_maps = Reshape (dmh_feature_term, dmh_as_maps)
            dmh_sum1 = Add (dmh_feature_maps, dmh_coordinate_term)
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


def _name_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Name every node after its first output: tools that convert precision pass over nameless ones."""
    for node in nodes:
        node.name = f"node_{node.output[0]}"
        for attribute in node.attribute:
            _name_nodes(attribute.g.node)


def _function(text: str) -> onnx.FunctionProto:
    function = onnx.parser.parse_function(text)
    _name_nodes(function.node)
    onnx.checker.check_function(function)
    return function
