"""Whose a timed node is: names as exporters and runtimes write them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.runtimes.base import LayerTime
from edgeprune.search.layers import FIXED, Layer, layer_of_node, path_of_node, sum_by_layer


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ("/model.2/cv1/conv/Conv_output_0_nchwc", "model.2.cv1.conv.Conv_output_0_nchwc"),
        ("/model.22/m.0/m.0.1/attn/qkv/conv/Conv", "model.22.m.0.1.attn.qkv.conv.Conv"),
        ("/model.23/one2one_cv3.0/one2one_cv3.0.1/one2one_cv3.0.1.0/conv/Conv", "model.23.one2one_cv3.0.1.0.conv.Conv"),
        ("/model.0/conv/Conv + PWN(PWN(/model.0/act/Sigmoid), /model.0/act/Mul)", "model.0.conv.Conv"),
        ("ReorderInput_token_77", ""),
    ],
)
def test_path_of_a_node(node: str, path: str) -> None:
    assert path_of_node(node) == path


@pytest.mark.parametrize(
    ("node", "owner"),
    [
        ("/model.2/cv1/conv/Conv_output_0", "model.2.cv1.conv"),
        ("/model.2/cv1/act/Mul/QuickGeluFusion/", "model.2.cv1.conv"),
        ("/model.4/cv2/conv/Conv", "model.4.cv2.conv1.conv"),
        ("/model.22/proto/upsample/ConvTranspose", "model.22.proto.upsample"),
        ("/model.2/Concat", ""),
        ("/model.20/cv1/conv/Conv", ""),
    ],
)
def test_owner_of_a_node(node: str, owner: str) -> None:
    known = {"model.2.cv1.conv", "model.4.cv2.conv1.conv", "model.22.proto.upsample"}
    assert layer_of_node(node, known) == owner


def test_nodes_between_layers_belong_to_a_neighbour_and_decoding_to_nobody() -> None:
    layers = [
        Layer(name, "Conv2d 1 taps", np.ones(1), np.ones(1), 1, 1, 1)
        for name in ("model.2.cv1.conv", "model.2.cv2.conv", "model.3.cv2.conv")
    ]
    nodes = [
        ("/model.2/cv1/conv/Conv", "Conv", 1.0),
        ("ReorderOutput_token_1", "ReorderOutput", 0.1),
        ("/model.2/Concat", "Concat", 0.2),
        ("ReorderInput_token_2", "ReorderInput", 0.3),
        ("/model.2/cv2/conv/Conv", "Conv", 2.0),
        ("/model.3/cv2/conv/Conv", "Conv", 4.0),
        ("ReorderOutput_token_9", "ReorderOutput", 0.4),
        ("/model.3/Sigmoid", "Sigmoid", 0.5),
    ]
    spent = sum_by_layer([LayerTime(name, op, 0.0, ms) for name, op, ms in nodes], layers)
    assert spent == pytest.approx(
        {"model.2.cv1.conv": 1.1, "model.2.cv2.conv": 2.5, "model.3.cv2.conv": 4.4, FIXED: 0.5}
    )
