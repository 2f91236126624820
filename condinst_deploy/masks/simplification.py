"""Polygons with fewer points, by the algorithm of Ramer (1972) and of Douglas and Peucker (1973)."""

import numpy as np
import numpy.typing as npt

Polygon = npt.NDArray[np.float32]


def simplified(polygon: Polygon, tolerance: float) -> Polygon:
    """Leave out points of a closed polygon so that each of them stays within `tolerance` of the new outline.

    Args:
        polygon: `(m, 2)`, the last point being the first.
        tolerance: largest distance of a point that is left out from the line that replaces it, in pixels.

    Returns:
        `(k, 2)` points of the polygon in their order, the last one being the first. At least three are different,
        unless the polygon has fewer.
    """
    if tolerance <= 0 or len(polygon) < 5:
        return polygon
    points = polygon.astype(np.float64)
    opposite = int(((points - points[0]) ** 2).sum(axis=1).argmax())
    kept = np.zeros(len(points), dtype=np.bool_)
    kept[[0, opposite, -1]] = True
    # a polygon that is thinner than the tolerance keeps an area
    kept[int(_distances(points, points[0], points[opposite]).argmax())] = True
    stack = list(zip(np.flatnonzero(kept)[:-1].tolist(), np.flatnonzero(kept)[1:].tolist(), strict=True))
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        distances = _distances(points[first + 1 : last], points[first], points[last])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = first + 1 + farthest
            kept[middle] = True
            stack += [(first, middle), (middle, last)]
    return polygon[kept]


def _distances(
    points: npt.NDArray[np.float64], start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Distance of each point from the line between two, its ends included."""
    direction = end - start
    length = float(direction @ direction)
    share = ((points - start) @ direction / length).clip(0, 1) if length else np.zeros(len(points))
    distances: npt.NDArray[np.float64] = np.hypot(*(points - start - share[:, None] * direction).T)
    return distances
