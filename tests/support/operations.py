"""One table of adversarial cases for each special operation; every form of it runs all of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from condinst_deploy.model.config import STRIDES
from condinst_deploy.model.head import LevelOutputs

THRESHOLD = 0.6


@dataclass(frozen=True, eq=False)
class SelectCase:
    """Inputs of SelectInstances."""

    name: str
    boxes: Tensor  # (B, N, 4)
    scores: Tensor  # (B, N)
    labels: Tensor  # (B, N) int32
    slots: int

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class CandidateCase:
    """Return inputs of the selection of candidates: the head's outputs for images padded to 64x96."""

    name: str
    levels: list[LevelOutputs]  # P3..P7
    sizes: Tensor  # (B, 2) height and width before padding
    threshold: float = 0.05
    limit: int = 20  # candidates per level

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class MaskHeadCase:
    """Inputs of DynamicMaskHead."""

    name: str
    mask_feats: Tensor  # (B, C, h, w)
    params: Tensor  # (B, K, num_params)
    points: Tensor  # (B, K, 2)
    soi: Tensor  # (B, K)

    def __str__(self) -> str:
        return self.name


def select_cases() -> list[SelectCase]:
    random = torch.Generator().manual_seed(0)
    one_box = torch.tensor([10.0, 20.0, 110.0, 90.0])
    spread = _spread(12)
    cases = [
        _random_case("random", random, batch=2, candidates=300, labels=5, slots=40),
        _random_case("crowded, one class", random, batch=3, candidates=200, labels=1, slots=100),
        _random_case("many classes", random, batch=1, candidates=500, labels=80, slots=100),
        SelectCase("no candidates", torch.zeros(2, 7, 4), torch.zeros(2, 7), _labels(2, 7), 5),
        SelectCase("one candidate", one_box.repeat(1, 1, 1), torch.ones(1, 1), _labels(1, 1), 3),
        SelectCase("all tied, apart", spread[None], torch.full((1, 12), 0.5), _labels(1, 12), 8),
        SelectCase(
            "all tied, everything overlapping", one_box.repeat(1, 9, 1), torch.full((1, 9), 0.5), _labels(1, 9), 4
        ),
        SelectCase("everything overlapping", one_box.repeat(1, 9, 1), _falling(9), _labels(1, 9), 4),
        SelectCase("same box, other class", one_box.repeat(1, 4, 1), _falling(4), torch.arange(4).int()[None], 4),
        SelectCase("exactly K", spread[None, :6], _falling(6), _labels(1, 6), 6),
        SelectCase("one more than K", spread[None, :7], _falling(7), _labels(1, 7), 6),
        SelectCase("K = 1", spread[None], _falling(12).flip(1), _labels(1, 12), 1),
        SelectCase("more slots than candidates", spread[None, :3], _falling(3), _labels(1, 3), 10),
        SelectCase("no area", one_box[[0, 1, 0, 1]].repeat(1, 3, 1), _falling(3), _labels(1, 3), 3),
        SelectCase("IoU at the threshold", _at_threshold(), _falling(4), _labels(1, 4), 4),
        SelectCase("rising scores", spread[None], _falling(12).flip(1), _labels(1, 12), 12),
        # as AdelaiDet's boxes are at this point: not clamped to the image
        SelectCase("beyond the image", _at_threshold() - 70, _falling(4), _labels(1, 4), 4),
        SelectCase("one image empty", torch.stack((spread, spread)), _one_empty(12), _labels(2, 12), 12),
    ]
    return cases


def candidate_cases(classes: int = 3) -> list[CandidateCase]:
    """Cases for the rules of both families; no two pairs are as good as each other."""
    random = torch.Generator().manual_seed(2)
    sizes = torch.tensor([[60, 90], [64, 41]], dtype=torch.int32)

    def levels(cls: float, centerness: float, distance: float) -> list[LevelOutputs]:
        made = []
        for height, width in ((-(-64 // stride), -(-96 // stride)) for stride in STRIDES):
            shape = (2, classes, height, width)
            made.append(
                LevelOutputs(
                    torch.randn(shape, generator=random) * 2 + cls,
                    torch.rand((2, 4, height, width), generator=random) * distance,
                    torch.randn((2, 1, height, width), generator=random) + centerness,
                    torch.randn((2, 5, height, width), generator=random),
                )
            )
        return made

    no_sides = [level._replace(distances=level.distances.clamp(max=0)) for level in levels(0, 0, 1)]
    thin = [level._replace(distances=level.distances * torch.eye(4)[0].reshape(4, 1, 1)) for level in levels(0, 0, 2)]
    return [
        CandidateCase("usual", levels(-2, 1, 3), sizes),
        CandidateCase("more than the limit", levels(3, 1, 3), sizes),
        CandidateCase("a limit of one", levels(0, 0, 3), sizes, limit=1),
        CandidateCase("nothing above the threshold", levels(-30, 0, 3), sizes),
        CandidateCase("everything above the threshold", levels(4, 4, 3), sizes, threshold=0.0, limit=1000),
        CandidateCase("sure classes, poor centerness", levels(5, -6, 3), sizes),
        CandidateCase("poor classes, sure centerness", levels(-3, 8, 3), sizes),
        CandidateCase("boxes beyond the image", levels(0, 0, 100), sizes),
        CandidateCase("boxes without area", no_sides, sizes),
        CandidateCase("boxes without height", thin, sizes),
        CandidateCase("smallest image", levels(0, 0, 3), torch.tensor([[1, 1], [1, 96]], dtype=torch.int32)),
    ]


def mask_head_cases(channels: int = 8, hidden: int = 8) -> list[MaskHeadCase]:
    random = torch.Generator().manual_seed(1)

    def case(name: str, batch: int, slots: int, height: int, width: int, scale: float = 1.0) -> MaskHeadCase:
        size = hidden * (channels + 2) + hidden * hidden + hidden + 2 * hidden + 1
        soi = torch.tensor([64.0, 128.0, 256.0, 512.0, 1024.0])
        return MaskHeadCase(
            name,
            torch.randn(batch, channels, height, width, generator=random) * scale,
            torch.randn(batch, slots, size, generator=random) * scale,
            torch.rand(batch, slots, 2, generator=random) * torch.tensor([width * 8.0, height * 8.0]),
            soi[torch.randint(5, (batch, slots), generator=random)],
        )

    zeros = case("zero parameters", 1, 3, 6, 5)
    return [
        case("usual", 1, 20, 25, 38),
        case("batch", 3, 4, 12, 10),
        case("one pixel", 1, 2, 1, 1),
        case("one row", 1, 3, 1, 17),
        case("one column", 2, 3, 13, 1),
        case("odd width", 1, 5, 7, 13),
        case("one slot", 2, 1, 9, 11),
        case("K = 100", 1, 100, 10, 12),
        case("large values", 1, 4, 8, 9, scale=10.0),
        case("tiny values", 1, 4, 8, 9, scale=1e-4),
        MaskHeadCase(zeros.name, zeros.mask_feats, torch.zeros_like(zeros.params), zeros.points, zeros.soi),
    ]


def _random_case(
    name: str, random: torch.Generator, batch: int, candidates: int, labels: int, slots: int
) -> SelectCase:
    corner = torch.rand(batch, candidates, 2, generator=random) * 300
    side = torch.rand(batch, candidates, 2, generator=random) * 150
    scores = torch.rand(batch, candidates, generator=random)
    scores = torch.where(scores < 0.2, torch.zeros_like(scores), (scores * 50).round() / 50)  # many ties
    classes = torch.randint(labels, (batch, candidates), generator=random, dtype=torch.int32)
    return SelectCase(name, torch.cat((corner, corner + side), dim=2), scores, classes, slots)


def _spread(n: int) -> Tensor:
    left = torch.arange(n, dtype=torch.float32) * 50
    return torch.stack((left, left, left + 40, left + 30), dim=1)


def _falling(n: int) -> Tensor:
    return torch.linspace(0.9, 0.1, n)[None]


def _labels(batch: int, n: int) -> Tensor:
    return torch.ones(batch, n, dtype=torch.int32)


def _one_empty(n: int) -> Tensor:
    return torch.cat((torch.zeros(1, n), _falling(n)))


def _at_threshold() -> Tensor:
    """IoU with the first box: exactly 3/5 (kept, for it is not above), just above, and just below."""
    first = [0.0, 0.0, 100.0, 100.0]
    return torch.tensor([[first, [0.0, 0.0, 100.0, 60.0], [0.0, 0.0, 60.01, 100.0], [40.1, 0.0, 100.0, 100.0]]])
