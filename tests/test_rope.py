"""Rotary positions: rotation invariants and the layout that Wan's weights expect."""

import pytest
import torch

from wam.rope import action_tables, apply_rope, video_tables


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    rope = action_tables(8, 12)
    q, k = torch.randn(1, 1, 1, 12).expand(1, 1, 8, 12), torch.randn(1, 1, 1, 12).expand(1, 1, 8, 12)
    turned_q, turned_k = apply_rope(q, rope), apply_rope(k, rope)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    scores = turned_q @ turned_k.transpose(-1, -2)  # (1, 1, 8, 8)
    for distance in range(8):
        diagonal = scores[0, 0].diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)


def test_first_position_is_not_rotated():
    x = torch.randn(1, 2, 4, 12)
    assert torch.allclose(apply_rope(x, action_tables(4, 12))[:, :, 0], x[:, :, 0])


def test_real_tables_equal_the_complex_form():
    x = torch.randn(1, 1, 5, 16)
    angles = torch.arange(5).double()[:, None] * 10000.0 ** (-torch.arange(0, 16, 2).double() / 16)
    as_complex = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    expected = torch.view_as_real(as_complex * torch.polar(torch.ones_like(angles), angles)).flatten(-2).float()
    assert torch.allclose(apply_rope(x, action_tables(5, 16)), expected, atol=1e-6)


@pytest.mark.parametrize(("head_dim", "time", "side"), [(128, 44, 42), (32, 12, 10), (12, 4, 4)])
def test_video_head_splits_into_time_height_width(head_dim: int, time: int, side: int):
    cos, sin, _ = video_tables(torch.tensor([0.0, 1.0]), 2, 3, head_dim)
    assert cos.shape == sin.shape == (12, head_dim)
    grid = sin.reshape(2, 2, 3, head_dim)
    assert not grid[0, :, :, :time].any()  # frame 0: no rotation in time
    assert not grid[:, 0, :, time : time + side].any()  # row 0
    assert not grid[:, :, 0, time + side :].any()  # column 0
    assert grid[1, 0, 0, :time].any()
    assert grid[0, 1, 0, time : time + side].any()
    assert grid[0, 0, 1, time + side :].any()
